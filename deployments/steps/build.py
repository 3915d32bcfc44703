"""Build: the commit from the mirror, its addons and requirements on the Odoo base image. Changes nothing that runs."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from deployments import ahead, further, push_order, space
from deployments.further import WHOLE_ID
from deployments.images import digest, lock_of
from deployments.models import Deployment
from deployments.run import Run, Stage
from deployments.states import StepKind
from deployments.steps import planning
from deployments.steps.base import Nothing, NothingNew
from instances import doors, processes, templates
from instances.addons import Addon
from instances.build_plan import BuildPlan, prepare_context
from instances.odoo.versions import series
from instances.runtimes.base import NAMESPACE_LABEL, Image
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.locks import file_lock
from projects.git import Commit
from projects.mirrors import mirror_of, size_of
from projects.models import Server
from projects.validators import is_commit_id

NAMED = 30
"""So many addons of a repository are called by name in the log; Odoo Enterprise has a thousand."""


class NoBranch(ExpectedError):
    default_advice = "Set a git branch on the environment, or say which branch, tag or commit to deploy."


def perform(stage: Stage) -> str:
    run = stage.run
    check_server(stage)
    for values in (run.config.environment, *run.config.instances.values()):
        processes.check(values)
    said: list[str] = []
    nothing = None
    with waiting.beside(partial(_get_ready, run, said.append)) as (ready,):
        try:
            outcome = _image(stage, ready)
        except Nothing as found:
            nothing = found  # no reason to call away who gets the server ready
    for line in said:
        stage.log(line)
    if nothing:
        raise nothing
    return outcome


def _get_ready(run: Run, log: Callable[[str], None]) -> None:
    """PostgreSQL and the edge run, and are asked what the next steps want to know."""
    run.runtime.prepare(log)
    if run.live:
        server = run.environment.server
        run.ahead = ahead.look(
            partial(planning.read, run), partial(space.snapshot_bytes, run), partial(doors.served, server, run.runtime)
        )


def _image(stage: Stage, ready: Future[None]) -> str:
    run = stage.run
    has_repository = bool(run.environment.project.repository_url)
    commit = _commits(stage) if has_repository else None
    base = run.runtime.images.ensure_base(run.config.base_image, stage.log)
    if not run.live:
        waiting.result_of(ready)
        version = run.config.environment["odoo_version"]
        templates.ensure(run.runtime, run.config.base_image, version, stage.log, run.check)
    return _from_repository(stage, base, commit) if has_repository else _plain(stage, base)


def _commits(stage: Stage) -> Commit | None:
    """The repository's own, and on record those of the further ones. None where git need not be asked, whose host may
    be down: a whole id is wanted, and built."""
    asked = _asked_for(stage.run)
    commit = None if _is_whole(asked) else _commit(stage, asked)
    further.settle(stage)
    return commit if commit or _may_be_built(stage.run) else _commit(stage, asked)


def _plain(stage: Stage, base: Image) -> str:
    run, then = stage.run, stage.run.deployment.rollback_to
    # A rollback's image has lost its name when that has moved on to another one; then it goes by its id.
    earlier = run.runtime.images.find(then.base_image_id) if then and then.base_image_id not in ("", base.id) else None
    image = earlier or base
    run.save(
        image=image.reference,
        image_id=image.id,
        base_image_id=image.id,
        content=digest(image.id),
        addons={},
        repositories=[],
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
    server.facts = asdict(facts)
    Server.objects.filter(pk=server.pk).update(problem="", facts=server.facts, seen_at=timezone.now())
    space.require_for_build(stage.run, facts.disk_free_bytes)


def _from_repository(stage: Stage, base: Image, commit: Commit | None) -> str:
    run = stage.run
    if commit is None:
        asked = _asked_for(run)
        reference = _reference(run, base, asked)
        with _alone(stage, reference):
            _take_built(stage, reference)
        commit = _commit(stage, asked)
    reference = _reference(run, base, commit.sha)
    # One worker at a time finds or builds it: staging and production may be pushed the same commit at once.
    with _alone(stage, reference):
        _take_built(stage, reference)
        return _build(stage, base, commit, reference)


def _reference(run: Run, base: Image, commit: str) -> str:
    """Named by project and commit; the rest of the name tells apart what the commit was put on, and together with what
    else."""
    then = run.deployment.rollback_to
    if then and run.runtime.images.find(then.image):
        return then.image
    stands_on = digest(base.id, *run.config.environment["pip_packages"], *further.identity(run.deployment))
    return f"{settings.OCORE_NAMESPACE}/{run.environment.project.slug}:{commit[:40]}-{stands_on[:8]}"


def _may_be_built(run: Run) -> bool:
    asked, base = _asked_for(run), run.runtime.images.find(run.config.base_image)
    if base is None or not _is_whole(asked):
        return False
    return _built(run, _reference(run, base, asked)) is not None


def _built(run: Run, reference: str) -> tuple[Image, Deployment] | None:
    """The image where it is on the server, and for whom it was built."""
    image = run.runtime.images.find(reference)
    earlier = Deployment.objects.filter(image=reference).exclude(content="").exclude(pk=run.deployment.pk).first()
    return (image, earlier) if image and earlier else None


def _take_built(stage: Stage, reference: str) -> None:
    """Raises `Nothing` when it was built before and is still on the server."""
    run = stage.run
    if built := _built(run, reference):
        image, earlier = built
        same = ("commit", "subject", "author", "committed_at", "base_image_id", "addons", "content")
        run.save(image=reference, image_id=image.id, **{name: getattr(earlier, name) for name in same})
        raise Nothing(f"Built before, for {earlier}: {reference}")


def _alone(stage: Stage, reference: str) -> AbstractContextManager[None]:
    """One worker at a time finds, builds or removes it."""
    told = False

    def waiting() -> None:
        nonlocal told
        stage.log("" if told else f"Waiting: another deployment is building {reference}.")
        told = True

    return file_lock(lock_of(reference), waiting)


def _asked_for(run: Run) -> str:
    """The branch, tag or commit."""
    deployment = run.deployment
    ref = deployment.rollback_to.commit if deployment.rollback_to else deployment.ref or run.environment.branch
    if not ref:
        raise NoBranch(f"{run.environment} has no git branch, and nothing else was asked for.")
    return ref


def _is_whole(ref: str) -> bool:
    return len(ref) in WHOLE_ID and is_commit_id(ref)


def _commit(stage: Stage, asked: str) -> Commit:
    """What to deploy: the tip of the branch at this moment, or the tag or commit that was asked for. Raises
    `NothingNew`."""
    run = stage.run
    mirror = mirror_of(run.environment.project)
    mirror.fetch(stage.log, commit=asked if _is_whole(asked) else "")
    commit, pushed = mirror.resolve(asked), run.deployment.commit
    run.save(
        commit=commit.sha, subject=commit.subject[:300], author=commit.author[:200], committed_at=commit.committed_at
    )
    stage.log(f"{commit.sha[:10]} “{commit.subject}” by {commit.author}")
    had = push_order.nothing_new(run.deployment, pushed, commit, mirror)
    if had:
        raise NothingNew(*had)
    return commit


def _build(stage: Stage, base: Image, commit: Commit, reference: str) -> str:
    run = stage.run
    folder = Path(settings.STATE_DIR) / "builds" / str(run.deployment.pk)
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
            pip_packages=run.config.environment["pip_packages"],
            base_image_id=base.id,
            certificates=_certificates(),
            proven={addon["fingerprint"] for addon in run.live.addons.values()} if run.live else (),
            further=further.export(stage, folder / "further"),
        )
        _tell(plan, stage.log)
        if run.deployment.repositories:
            space.require_for_context(run, size_of(context))
        labels = {
            NAMESPACE_LABEL: settings.OCORE_NAMESPACE,
            "io.ocore.project": run.environment.project.slug,
            "io.ocore.commit": commit.sha,
        }
        run.check()
        total, silence = settings.OCORE_DEADLINES[StepKind.BUILD]
        image = run.runtime.images.build(reference, context, labels, stage.log, timeout=total, silence=silence)
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


def _tell(plan: BuildPlan, log: Callable[[str], None]) -> None:
    """What goes into the image, from where, and what does not."""
    of: dict[str, list[Addon]] = {}
    for addon in plan.taken:
        of.setdefault(addon.repository, []).append(addon)
    for repository, addons in sorted(of.items()):
        names = [addon.name for addon in addons[:NAMED]]
        more = f" and {len(addons) - NAMED} more" if len(addons) > NAMED else ""
        log(f"{len(addons)} addons{_of(repository)}: {', '.join(names)}{more}")
    taken_from = {addon.name: addon.repository or "the project's own repository" for addon in plan.taken}
    for addon in plan.hidden:
        log(f"{addon.name} is taken from {taken_from[addon.name]}; that{_of(addon.repository)} is left out.")
    for addon in plan.addons:
        if not addon.installable:
            log(f"Left out: {addon.name}{_of(addon.repository)}, {addon.why_not}")


def _of(repository: str) -> str:
    return f" of {repository}" if repository else ""


def forget(deployment: int) -> None:
    """Away with what a worker that died has left of its build on this machine."""
    shutil.rmtree(Path(settings.STATE_DIR) / "builds" / str(deployment), ignore_errors=True)


def _certificates() -> bytes:
    """The authorities that pip trusts inside a build; empty: those of the base image."""
    path = settings.OCORE_BUILD_CERTIFICATES
    return Path(path).read_bytes() if path else b""
