"""Which processes belong to an engine: pure decisions over one look at the process table (rules A8, A9)."""

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from aigw_daemon.identity import Identity
from aigw_daemon.state_file import Member
from aigw_daemon.supervisor.proctable import Process, descendants

Processes = Mapping[int, Process]


class Leader(NamedTuple):
    """A running leader, and its descendants as far as they were seen."""

    identity: Identity
    members: tuple[Member, ...] = ()


def group(processes: Processes, leader: Identity) -> set[int]:
    """The PIDs of the leader's process group and session, itself included, whether or not it still runs."""
    now = processes.get(leader.pid)
    if now is not None and now.start_ticks != leader.start_ticks:
        # The number belongs to somebody else by now, and so does a group of that number.
        return set()
    return {
        entry.pid
        for entry in processes.values()
        if leader.pid in {entry.pgid, entry.sid} and entry.start_ticks >= leader.start_ticks
    }


def members(processes: Processes, leader: Leader) -> tuple[Member, ...]:
    """All that the leader has started and that runs, those included that have left its tree since they were seen."""
    pid = leader.identity.pid
    tree = descendants(processes, {pid}) | group(processes, leader.identity)
    found = {Member(other, processes[other].start_ticks) for other in tree - {pid}}
    kept = {member for member in leader.members if _is_running(processes, member)}
    return tuple(sorted(found | kept, key=lambda member: member.pid))


def accounted_for(processes: Processes, leaders: Iterable[Leader]) -> set[int]:
    """The PIDs of running leaders and of all that belongs to them.

    A sweep spares them: two leaders may carry one name (a gateway worker and its successor do).
    """
    spared: set[int] = set()
    for leader in leaders:
        spared |= {leader.identity.pid} | {member.pid for member in members(processes, leader)}
    return spared


def survivors(
    processes: Processes, known: Iterable[Member], found: Iterable[int], spared: Container[int]
) -> set[Member]:
    """What is to be killed: known members and found PIDs that still run, and all their descendants."""
    roots = {member.pid for member in known if _is_running(processes, member)} | set(found)
    pids = roots | descendants(processes, roots)
    running = (processes[pid] for pid in pids if pid not in spared and pid in processes)
    return {Member(entry.pid, entry.start_ticks) for entry in running if not entry.zombie}


def zombies(processes: Processes, parent: int, but: Container[int]) -> set[Member]:
    """The ended children of ``parent`` that wait to be reaped, without the leaders: those have a pidfd each."""
    return {
        Member(entry.pid, entry.start_ticks)
        for entry in processes.values()
        if entry.ppid == parent and entry.zombie and entry.pid not in but
    }


def orphans(processes: Processes, ended: Iterable[Member], parent: int, leaders: Iterable[Leader]) -> set[Member]:
    """Of the ended children of ``parent``, those that it did not start itself: their parents were engines.

    Its own children share its session or lead one of their own; what does neither comes from an engine. Of one that
    leads a session nobody can tell, unless it was seen as a descendant.
    """
    own_session = processes[parent].sid
    recorded = {member for leader in leaders for member in leader.members}
    return {
        member for member in ended if member in recorded or processes[member.pid].sid not in {member.pid, own_session}
    }


def _is_running(processes: Processes, member: Member) -> bool:
    entry = processes.get(member.pid)
    return entry is not None and entry.start_ticks == member.start_ticks
