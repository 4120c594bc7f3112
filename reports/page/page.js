"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const paperWidth = 680; // pixels between the margins of A4
  const printing = matchMedia("print");
  const plots = [];

  const axis = { fixedrange: true, automargin: true, showline: false, zeroline: false };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 13 };
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, showTips: false };

  /* Round numbers within a decade, coarse to fine: the first that gives four ticks is taken. */
  const steps = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.3, 2.6, 3, 3.5, 4, 5, 6, 7, 8, 9],
    Array.from({ length: 90 }, (_, index) => 1 + index / 10)];

  function ticks(traces) {
    const values = traces.flatMap((trace) => trace.y).filter((value) => value > 0);
    if (values.length === 0) return {};
    const low = Math.min(...values) * 0.93;
    const high = Math.max(...values) * 1.07;
    const decades = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) decades.push(decade);
    let found = [];
    for (const step of steps) {
      found = decades.flatMap((decade) => step.map((value) => Number((value * 10 ** decade).toPrecision(3))));
      found = found.filter((value) => value >= low && value <= high);
      if (found.length >= 4) break;
    }
    return { tickmode: "array", tickvals: found, ticktext: found.map((value) => value.toLocaleString("en")) };
  }

  function layoutOf(view, traces) {
    const given = view.layout;
    const marks = given.yaxis.type === "log" ? ticks(traces) : {};
    return {
      autosize: true,
      showlegend: false,
      hovermode: "closest",
      dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font,
      hoverlabel: { align: "left", font },
      hoverdistance: 30,
      margin: { l: 56, r: 12, t: 12, b: 44, ...given.margin },
      xaxis: { ...axis, ...given.xaxis },
      yaxis: { ...axis, ...marks, ...given.yaxis },
    };
  }

  function spoken(text) {
    const words = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };
    return text.replaceAll("<br>", ", ").replace(/&(lt|gt|amp);/g, (found) => words[found]);
  }

  class Plot {
    constructor({ id, views }) {
      this.figure = document.getElementById(id);
      this.div = this.figure.querySelector(".plot");
      this.views = views;
      this.choice = this.figure.querySelector("select.view");
      this.at = null;
      this.figure.querySelector(".controls").hidden = false;
      this.figure.addEventListener("change", () => this.draw());
      this.div.addEventListener("keydown", (event) => this.step(event));
      this.div.addEventListener("blur", () => Plotly.Fx.unhover(this.div));
      this.draw();
    }

    get view() {
      return this.views[this.choice ? Number(this.choice.value) : 0];
    }

    chosen() {
      const chosen = {};
      for (const set of this.figure.querySelectorAll("[data-filter]")) {
        const boxes = [...set.querySelectorAll("input:checked")];
        chosen[set.dataset.filter] = new Set(boxes.map((box) => box.value));
      }
      return chosen;
    }

    draw() {
      const chosen = this.chosen();
      const shows = (meta) => Object.entries(chosen).every(([name, values]) => values.has(meta[name]));
      this.traces = this.view.traces.filter((trace) => shows(trace.meta));
      this.at = null;
      Plotly.react(this.div, structuredClone(this.traces), layoutOf(this.view, this.traces), config);
      this.figure.querySelector(".told").textContent = this.view.note;
      this.explain();
      filterTables(chosen);
    }

    explain() {
      const legend = this.figure.querySelector("ul.legend");
      const told = this.traces.filter((trace) => trace.meta.legend);
      legend.hidden = told.length === 0;
      legend.replaceChildren(...told.map(({ meta }) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = `swatch c${meta.colour}`;
        swatch.setAttribute("aria-hidden", "true");
        swatch.textContent = meta.symbol;
        item.append(swatch, ` ${meta.legend}`);
        return item;
      }));
    }

    /* Places of a line where there is a mark; elsewhere it is interrupted. */
    marks(line) {
      const { x, y, hovertext } = this.traces[line];
      return hovertext ? [...x.keys()].filter((place) => x[place] !== null && y[place] !== null) : [];
    }

    /* Arrow keys: along a line, and from line to line. */
    step(event) {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const lines = [...this.traces.keys()].filter((line) => this.marks(line).length > 0);
      if (!move || lines.length === 0) return;
      event.preventDefault();
      const clip = (value, length) => Math.max(0, Math.min(length - 1, value));
      const [before, place] = this.at ?? [lines[0], null];
      const curveNumber = lines[clip(lines.indexOf(before) + move[0] * (place !== null), lines.length)];
      const marks = this.marks(curveNumber);
      const near = (best, each) => (Math.abs(each - place) < Math.abs(best - place) ? each : best);
      const pointNumber = place === null ? marks[0]
        : move[1] ? marks[clip(marks.indexOf(place) + move[1], marks.length)] : marks.reduce(near);
      this.at = [curveNumber, pointNumber];
      Plotly.Fx.hover(this.div, [{ curveNumber, pointNumber }]);
      const text = this.traces[curveNumber].hovertext[pointNumber];
      this.figure.querySelector(".said").textContent = spoken(text);
    }

    fit(onPaper) {
      Plotly.relayout(this.div, onPaper ? { autosize: false, width: paperWidth, height: 320 }
        : { autosize: true, width: null, height: null });
    }
  }

  /* The networks and devices chosen for Fig. 1 are those of the tables beside it. */
  function filterTables(chosen) {
    if (!chosen.network) return;
    for (const line of document.querySelectorAll("table[data-filtered] tbody tr")) {
      line.hidden = !(chosen.network.has(line.dataset.network) && chosen.device.has(line.dataset.device));
    }
  }

  function key(cell) {
    return cell.dataset.key === undefined ? null : cell.dataset.key;
  }

  function sort(button) {
    const heading = button.closest("th");
    const table = button.closest("table");
    const column = Number(button.dataset.column);
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const numeric = heading.classList.contains("number");
    const compare = (a, b) => {
      const [left, right] = [a, b].map((line) => key(line.cells[column]));
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * (numeric ? Number(left) - Number(right) : left.localeCompare(right));
    };
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    table.dataset.sorted = "";
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }

  for (const button of document.querySelectorAll(".sort")) button.addEventListener("click", () => sort(button));
  for (const figure of figures) plots.push(new Plot(figure));

  const closed = [];
  function forPaper() {
    if (printing.matches) {
      closed.push(...document.querySelectorAll("details:not([open])"));
      for (const each of closed) each.open = true;
    } else {
      for (const each of closed.splice(0)) each.open = false;
    }
    for (const plot of plots) plot.fit(printing.matches);
  }
  printing.addEventListener("change", forPaper);
  if (printing.matches) forPaper();
})();
