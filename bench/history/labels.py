"""Names of what was measured, for programs that follow a name from run to run: equal work has an equal name, always.

A name says everything that identifies the work, for a later run may differ in any of it; settings that nobody changed
are left out.
"""

from bench.history.snapshot import Work

#: What is left out of a name at its default.
_OPTIONS = {
    "compile": "compile {}",
    "cuda_graph": "cuda graph",
    "channels_last": "channels last",
    "tf32": "tf32",
    "cudnn_benchmark": "no cudnn benchmark",
    "order": "{} order",
    "block": "block {}",
    "work": "work {}",
    "subset": "{} classes at a time",
    "top_layer": "top layer {}",
}


def setting_label(work: Work, threads: int | None) -> str:
    """The work of a setting without its class count: `resnet50, cpu, float32, batch 32, 3x224x224, 2 threads`.

    Of another tool's benchmark it is that one's own name.
    """
    parts = [work.arch]
    parts += [part for part in (work.device, work.dtype) if part]
    if work.batch_size is not None:
        parts.append(f"batch {work.batch_size}")
    if work.input_shape is not None:
        parts.append("x".join(map(str, work.input_shape)))
    if threads is not None:
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    for name, words in _OPTIONS.items():
        value = getattr(work, name)
        if value != Work.model_fields[name].default:
            parts.append(words.format(value))
    return ", ".join(parts)


def point_label(work: Work, threads: int | None) -> str:
    """The work of a point: a setting's and the class count, `resnet50, cpu ..., 370727 classes`."""
    label = setting_label(work, threads)
    return label if work.classes is None else f"{label}, {work.classes} classes"
