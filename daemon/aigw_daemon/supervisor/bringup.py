"""Getting a backend's process: the one that an earlier daemon left running, or a fresh one."""

import logging
from dataclasses import dataclass
from pathlib import Path

from aigw_daemon.identity import Identity
from aigw_daemon.link.messages import Secret
from aigw_daemon.profile.backends import ProcessSection
from aigw_daemon.state_file import BackendRecord, Seat
from aigw_daemon.supervisor.backend import Edges, Plan
from aigw_daemon.supervisor.engines.base import LOOPBACK, Engine, Launch, LaunchContext
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Failure, FailureKind, Unrunnable, unrunnable
from aigw_daemon.supervisor.gpu import Placement
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.supervisor.keys import engine_key
from aigw_daemon.supervisor.launcher import Handle, Launcher, LaunchError, NotAdopted, ProcessSpec, Stopped
from aigw_daemon.supervisor.ports import PortOwner
from aigw_daemon.supervisor.revision import revision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A process that is on its way to ready, and how to reach it."""

    handle: Handle
    port: int
    """0: it has none."""
    key: Secret | None
    stale: bool = False
    """Adopted, and the profile now asks for another command line."""


async def take_up(plan: Plan, edges: Edges, kind: Engine, *, replace: bool) -> Running | None:
    """Adopt what the state file knows of, if it still runs (rule A12).

    ``replace``: unless its command line is what the profile asks for; then it is ended. A stale one is kept otherwise:
    the operator decides when it restarts.
    """
    record = edges.state.backend(plan.name)
    if record.identity is None:
        return None
    try:
        handle = await edges.launcher.adopt(record.identity, log_path=log_path(plan, edges), log_file=record.log_file)
    except NotAdopted as error:
        log.info("%s: not adopted: %s", plan.name, error)
        return None
    port = record.port or 0
    stale = await _differs(plan, edges, kind, record.identity, port)
    if stale and replace:
        await edges.launcher.stop(handle, members=record.descendants)
        return None
    log.info("%s: adopted process %d%s", plan.name, record.identity.pid, " (stale)" if stale else "")
    edges.tell(plan.name, Happening.ADOPT, f"process {record.identity.pid}")
    return Running(handle, port, _key(plan, edges, kind), stale)


async def launch(plan: Plan, edges: Edges, kind: Engine, placement: Placement) -> Running:
    """Sweep what is left of an earlier one, then start. Raises Unrunnable, LaunchError and OSError.

    There is no await between the start and the record of it: a cancellation can't come between them.
    """
    record = edges.state.backend(plan.name)
    swept = await edges.launcher.sweep(plan.name, record.descendants)
    if swept.swept:
        edges.tell(plan.name, Happening.SWEEP, left_behind(swept))
    if swept.unkillable:
        raise Unrunnable(unkillable(swept))
    await edges.gpus.left(recorded_pids(record))
    port = await _choose_port(plan, edges, kind, record.port)
    command = _command(plan, edges, kind, port, placement)
    env = {**command.env, **placement.env}
    seats = tuple(Seat(gpu.index, gpu.uuid) for gpu in placement.devices)
    started_with = revision(plan, edges)
    handle = await edges.launcher.spawn(ProcessSpec(plan.name, command.argv, env, log_path(plan, edges)))
    begin = handle.log_start
    edges.state.update_backend(
        plan.name,
        identity=handle.identity,
        port=port or None,
        log_offset=begin.offset if begin is not None else 0,
        log_file=begin.file if begin is not None else None,
        descendants=(),
        gpus=seats,
        revision=started_with,
    )
    return Running(handle, port, _key(plan, edges, kind))


async def end_recorded(launcher: Launcher, name: str, record: BackendRecord) -> Stopped:
    """End what the state file knows of a backend, and whatever else bears its name."""
    if record.identity is not None:
        try:
            handle = await launcher.adopt(record.identity)
        except NotAdopted as error:
            log.info("%s: %s", name, error)
        else:
            return await launcher.stop(handle, members=record.descendants)
    return await launcher.sweep(name, record.descendants)


async def fingerprint(plan: Plan, edges: Edges) -> tuple[object, ...]:
    """Changes when a file that matters has come, gone or changed: then a start may end otherwise than the last."""
    try:
        placement = (await edges.gpus.look(process_section(plan).gpus)).emptied()
        # Any port will do: it is the same each time.
        return _command(plan, edges, ENGINES[plan.kind], 1, placement).fingerprint()
    except Unrunnable as error:
        return (error.failure.sentence,)


def failure_of(error: LaunchError | OSError) -> Failure:
    """Why a process could not be started (rules A6, A23)."""
    if not isinstance(error, LaunchError):
        return Failure(FailureKind.NO_RESOURCES, f"cannot prepare the start: {error}")
    if error.missing:
        return Failure(FailureKind.MISSING_BINARY, str(error))
    return Failure(FailureKind.NO_RESOURCES if error.transient else FailureKind.BAD_SETTING, str(error))


def recorded_pids(record: BackendRecord) -> set[int]:
    """The processes that the state file knows of."""
    leader = {record.identity.pid} if record.identity is not None else set()
    return leader | {member.pid for member in record.descendants}


def left_behind(stopped: Stopped) -> str:
    """What a sweep has killed."""
    count = stopped.swept
    return f"{count} {'process' if count == 1 else 'processes'} that its leader had left behind"


def unkillable(stopped: Stopped) -> Failure:
    """Something is left in spite of SIGKILL (rule A7)."""
    pids = ", ".join(map(str, stopped.unkillable))
    return Failure(
        FailureKind.UNKILLABLE,
        f"its processes {pids} survive SIGKILL: they hang inside the kernel (a driver or a disk); see dmesg",
    )


def log_path(plan: Plan, edges: Edges) -> Path:
    """Where its output goes."""
    return edges.home.logs / f"{plan.name}.log"


def warnings(plan: Plan, edges: Edges) -> tuple[str, ...]:
    """What is wrong about a running one though it serves."""
    path = log_path(plan, edges)
    moved = edges.launcher.log_moved(path)
    return () if moved is None else (lost_log(path, moved, plan.name),)


def lost_log(path: Path, moved: str, name: str) -> str:
    """Say that a log has lost its name. ``moved``: as the launcher tells it; ``name``: whose log it is."""
    return (
        f"its log {path} was {moved}, and it still writes to that file: 'aigw logs {name}' shows it, and "
        f"'aigw restart {name}' begins a new one"
    )


def process_section(plan: Plan) -> ProcessSection:
    """What the profile says of a process of ours."""
    if not isinstance(plan.section, ProcessSection):
        raise TypeError(f"the backend {plan.name} is not a process of ours")
    return plan.section


async def _choose_port(plan: Plan, edges: Edges, kind: Engine, remembered: int | None) -> int:
    """The profile's port, else the one that it had, else a free one (rule A15); 0 where it needs none.

    Raises Unrunnable and OSError.
    """
    if not process_section(plan).has_port:
        return 0
    fixed = process_section(plan).port
    port = fixed or remembered or edges.launcher.free_port(_reserved(plan, edges))
    owner = edges.launcher.port_owner(port)
    if owner is None:
        return port
    if fixed is None:
        return edges.launcher.free_port(_reserved(plan, edges))
    if owner.ours:
        who = f"the backend {owner.backend} of this aigw"
    elif (await edges.prober.ready(kind, plan.section, f"http://{LOOPBACK}:{port}", None)).up:
        raise unrunnable(FailureKind.PORT_TAKEN, _runs_already(port, kind, owner))
    else:
        who = str(owner)
    raise unrunnable(
        FailureKind.PORT_TAKEN,
        f"port {port} is taken by {who}: stop that, give the backend another port, or attach: to what runs there",
    )


def _runs_already(port: int, kind: Engine, owner: PortOwner) -> str:
    return (
        f"port {port} is taken by {owner}, which answers as {kind.kind} does: somebody else runs one already. To use "
        f"that one, write attach: http://{LOOPBACK}:{port} in place of the backend's port and other keys of a process; "
        "else stop it, or give the backend another port"
    )


def _reserved(plan: Plan, edges: Edges) -> set[int]:
    """Ports that are free now and promised to others."""
    records = edges.state.document.backends
    others = {record.port for name, record in records.items() if name != plan.name and record.port is not None}
    return others | set(plan.profile.fixed_ports.values()) | {plan.profile.gateway.port}


def _command(plan: Plan, edges: Edges, kind: Engine, port: int, placement: Placement) -> Launch:
    return kind.launch(
        LaunchContext(
            name=plan.name,
            section=plan.section,
            profile=plan.profile,
            home=edges.home,
            port=port,
            api_key=engine_key(edges.home, plan.name),
            environ=edges.environ,
            resolve=edges.resolve,
            placement=placement,
        )
    )


async def _differs(plan: Plan, edges: Edges, kind: Engine, identity: Identity, port: int) -> bool:
    """Whether the profile asks for another command line than the running one, its port included."""
    section = process_section(plan)
    try:
        placement = (await edges.gpus.look(section.gpus)).emptied()
        return not _command(plan, edges, kind, section.port or port, placement).is_like(identity.argv)
    except Unrunnable:
        return True


def _key(plan: Plan, edges: Edges, kind: Engine) -> Secret | None:
    return engine_key(edges.home, plan.name) if kind.has_key else None
