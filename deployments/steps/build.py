"""Build: the commit from the mirror, its addons and requirements on the Odoo base image. Changes nothing that runs."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from deployments.models import Deployment
from deployments.run import Stage
from deployments.states import UNDERWAY
from deployments.steps.base import DiskFull
from instances import processes, templates
from instances.addons import Addon
from instances.build_plan import prepare_context
from instances.odoo.versions import series
from instances.runtimes.base import NAMESPACE_LABEL, Image
from ocore.errors import ExpectedError
from ocore.forms import format_size
from ocore.locks import file_lock
from projects.git import Commit
from projects.mirrors import mirror_of
from projects.models import Server
from projects.validators import is_commit_id

WHOLE_ID = (40, 64)
"""Characters of a commit id that is not abbreviated."""
BUILD_SECONDS = 1800.0
BUILD_SILENCE_SECONDS = 600.0


class NoBranch(ExpectedError):
    default_advice = "Set a git branch on the environment, or say which branch, tag or commit to deploy."


def perform(stage: Stage) -> str:
    run = stage.run
    runtime = run.runtime
    check_server(stage)
    for values in (run.config.environment, *run.config.instances.values()):
        processes.check(values)
    said: list[str] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        prepared = pool.submit(runtime.prepare, said.append)
        commit = _commit(stage) if run.environment.project.repository_url else None
    for line in said:
        stage.log(line)
    prepared.result()
    base = runtime.images.ensure_base(run.config.base_image, stage.log)
    if not run.live:
        templates.ensure(runtime, run.config.base_image, run.config.environment["odoo_version"], stage.log, run.check)
    return _from_repository(stage, base, commit) if commit else _plain(stage, base)


def _plain(stage: Stage, base: Image) -> str:
    run, then = stage.run, stage.run.deployment.rollback_to
    # A rollback's image has lost its name when that has moved on to another one; then it goes by its id.
    earlier = run.runtime.images.find(then.base_image_id) if then and then.base_image_id not in ("", base.id) else None
    image = earlier or base
    run.save(
        image=image.reference,
        image_id=image.id,
        base_image_id=image.id,
        content=_digest(image.id),
        addons={},
        commit="",
        ref="",
    )
    return f"Plain Odoo: {image.reference}"


def check_server(stage: Stage) -> None:
    """It answers and has room; what it said is kept on its row. Raises `ServerUnreachable`, `DiskFull`."""
    server = stage.run.environment.server
    try:
        facts = stage.run.runtime.facts()
    except ExpectedError as error:
        Server.objects.filter(pk=server.pk).update(problem=error.message)
        raise
    Server.objects.filter(pk=server.pk).update(problem="", facts=asdict(facts), seen_at=timezone.now())
    require_space(server, facts.disk_free_bytes, settings.OCORE_MIN_FREE_BYTES)


def require_space(server: Server, free: int, needed: int) -> None:
    if free < needed:
        raise DiskFull(
            f"{server} has {format_size(free)} of disk left; {format_size(needed)} are needed. Nothing was started."
        )


def _from_repository(stage: Stage, base: Image, commit: Commit) -> str:
    run = stage.run
    deployment, project = run.deployment, run.environment.project
    run.save(
        commit=commit.sha, subject=commit.subject[:300], author=commit.author[:200], committed_at=commit.committed_at
    )
    stage.log(f"{commit.sha[:10]} “{commit.subject}” by {commit.author}")
    packages = run.config.environment["pip_packages"]
    # Named by project and commit; the rest of the name tells apart what the commit was put on.
    reference = f"{settings.OCORE_NAMESPACE}/{project.slug}:{commit.sha[:40]}-{_digest(base.id, *packages)[:8]}"
    if deployment.rollback_to and run.runtime.images.find(deployment.rollback_to.image):
        reference = deployment.rollback_to.image
    # One worker at a time finds or builds it: staging and production may be pushed the same commit at once.
    with _alone(stage, reference):
        built = run.runtime.images.find(reference)
        earlier = Deployment.objects.filter(image=reference).exclude(content="").exclude(pk=deployment.pk).first()
        if not built or not earlier:
            return _build(stage, base, commit, reference, packages)
        run.save(
            image=reference,
            image_id=built.id,
            base_image_id=earlier.base_image_id,
            addons=earlier.addons,
            content=earlier.content,
        )
        return f"Built before, for {earlier}: {reference}"


def _alone(stage: Stage, reference: str) -> AbstractContextManager[None]:
    """A few files serve as locks for ever; that two images share one is rare, and costs a wait."""
    told = False

    def waiting() -> None:
        nonlocal told
        stage.log("" if told else f"Waiting: another deployment is building {reference}.")
        told = True

    path = Path(settings.STATE_DIR) / "locks" / f"image-{_digest(reference)[:3]}.lock"
    return file_lock(path, waiting)


def _commit(stage: Stage) -> Commit:
    """What to deploy: the tip of the branch at this moment, or the tag or commit that was asked for."""
    run = stage.run
    deployment = run.deployment
    mirror = mirror_of(run.environment.project)
    ref = deployment.rollback_to.commit if deployment.rollback_to else deployment.ref or run.environment.branch
    if not ref:
        raise NoBranch(f"{run.environment} has no git branch, and nothing else was asked for.")
    mirror.fetch(stage.log, commit=ref if len(ref) in WHOLE_ID and is_commit_id(ref) else "")
    return mirror.resolve(ref)


def _build(stage: Stage, base: Image, commit: Commit, reference: str, packages: list[str]) -> str:
    run = stage.run
    builds = Path(settings.STATE_DIR) / "builds"
    _clear(builds, keep=run.deployment.pk)
    folder = builds / str(run.deployment.pk)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tree, context = folder / "tree", folder / "context"
        tree.mkdir(parents=True)
        mirror_of(run.environment.project).export(commit.sha, tree, stage.log)
        plan = prepare_context(
            tree,
            context,
            series(run.config.environment["odoo_version"]),
            base.reference,
            pip_packages=packages,
            base_image_id=base.id,
            certificates=_certificates(),
        )
        stage.log(f"{len(plan.taken)} addons: {', '.join(addon.name for addon in plan.taken)}")
        for addon in plan.addons:
            if not addon.installable:
                stage.log(f"Left out: {addon.name}, {addon.why_not}")
        labels = {
            NAMESPACE_LABEL: settings.OCORE_NAMESPACE,
            "io.ocore.project": run.environment.project.slug,
            "io.ocore.commit": commit.sha,
        }
        run.check()
        image = run.runtime.images.build(
            reference, context, labels, stage.log, timeout=BUILD_SECONDS, silence=BUILD_SILENCE_SECONDS
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.save(
        image=reference,
        image_id=image.id,
        base_image_id=base.id,
        addons={addon.name: asdict(addon) for addon in plan.addons},
        content=plan.digest,
    )
    return f"Built {reference}"


def forget(deployment: int) -> None:
    """Away with what a worker that died has left of its build on this machine."""
    shutil.rmtree(Path(settings.STATE_DIR) / "builds" / str(deployment), ignore_errors=True)


def _clear(builds: Path, keep: int) -> None:
    """Away with what a worker that was killed has left there."""
    underway = Deployment.objects.filter(status__in=UNDERWAY).values_list("pk", flat=True)
    kept = {str(pk) for pk in (*underway, keep)}
    for folder in builds.iterdir() if builds.is_dir() else ():
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _certificates() -> bytes:
    """The authorities that pip trusts inside a build; empty: those of the base image."""
    path = settings.OCORE_BUILD_CERTIFICATES
    return Path(path).read_bytes() if path else b""


def addons_of(deployment: Deployment) -> list[Addon]:
    return [Addon(**(row | {"depends": tuple(row["depends"])})) for row in deployment.addons.values()]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
