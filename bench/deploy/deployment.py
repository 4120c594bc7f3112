"""A plan becomes a run on disk: the only place where measuring and writing meet."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from archs.rows_on_disk import UnusableFile
from bench.deploy import room
from bench.deploy.measure import measure
from bench.deploy.plan import DeploymentPlan
from bench.deploy.records import Deployment, DeploymentManifest, DeploymentWriter, Memory, Sample
from bench.deploy.rows import complete
from bench.errors import UsageError
from bench.folder import RunNotWritten, now
from bench.machine.fingerprint import commit, describe, versions
from bench.speed.failures import first_line, status_of
from bench.speed.torch_state import DTYPES

#: The top layer on disk, in the run's folder while it is measured.
LAYER_FILE = "top-layer.safetensors"


def manifest_of(planned: DeploymentPlan, command: Sequence[str]) -> DeploymentManifest:
    """What is known before anything is measured."""
    setting, top = planned.setting, planned.facts.top
    return DeploymentManifest(
        name=f"single-{setting.arch}",
        created=now(),
        command=tuple(command),
        setting=setting,
        features=top.features,
        row_bytes=room.row_bytes(planned),
        layer_bytes=room.layer_bytes(planned),
        backbone_bytes=planned.facts.backbone_parameters * DTYPES[setting.dtype].itemsize,
        machine=describe(setting.device),
        versions=versions(),
        commit=commit(),
    )


def execute(
    planned: DeploymentPlan, parent: Path, *, command: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> Deployment:
    """Measure into a new folder under `parent`; `say` is told what comes next.

    The run says `complete`, or `incomplete` if all logits did not fit or a cold switch was not cold; `interrupted`
    if it was, which is passed on as everything that is raised. The top layer is removed from the folder in any case.
    Raises UsageError, before a folder is made, if memory or disk have no room; if the folder cannot be written; and if
    memory runs out all the same.
    """
    room.refuse_without_room(planned, parent / LAYER_FILE)
    writer = DeploymentWriter.create(parent, manifest_of(planned, command))
    layer_file = writer.path / LAYER_FILE
    samples: list[Sample] = []

    def emit(found: Sample | Memory) -> None:
        if isinstance(found, Memory):
            writer.replace(writer.manifest.model_copy(update={"memory": (*writer.manifest.memory, found)}))
        else:
            samples.append(found)
            writer.append([found])

    def end(**fields: object) -> Deployment:
        writer.replace(writer.manifest.model_copy(update=fields))
        return Deployment(writer.manifest, tuple(samples), writer.path)

    try:
        run = end(all_refused=measure(planned, layer_file, emit, say))
        return end(status="complete" if complete(run) else "incomplete")
    except BaseException as error:
        with contextlib.suppress(RunNotWritten):  # the disk that refused a sample refuses this too
            end(status="interrupted" if isinstance(error, KeyboardInterrupt) else "incomplete")
        advice = _advice(error)
        if advice is not None:
            raise UsageError(advice) from None
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            layer_file.unlink()
        writer.close()


def _advice(error: BaseException) -> str | None:
    """What to do about what a user can help: a disk that refuses, memory that runs out; None for all else."""
    if isinstance(error, UnusableFile | RunNotWritten):
        return f"{error} (--output names another folder)"
    if status_of(error) == "out-of-memory":
        return f"{first_line(error)}; take a smaller --batch-size or network, or free memory"
    return None
