"""When a kubelet starts a kube-proxy that has exited: its back-off, by node.

Counterpart: the kubelet's back-off of containers. The first restart comes at once. Each further one waits twice as long, from
10 s to 5 min after the exit, unless the process has lived for more than 10 min.
"""

from dataclasses import dataclass

from kpsim.units import SECOND_NS

FIRST_NS = 10 * SECOND_NS
LONGEST_NS = 300 * SECOND_NS
FORGOTTEN_AFTER_NS = 2 * LONGEST_NS


@dataclass(slots=True)
class BackOff:
    """The back-off of one container."""

    wait_ns: int = 0  #: after the next exit; 0: there was no restart yet
    restarted_ns: int = 0

    def restart_ns(self, exit_ns: int) -> int:
        """Return when the container that exits now is started again."""
        if self.wait_ns and exit_ns - self.restarted_ns <= FORGOTTEN_AFTER_NS:
            self.restarted_ns = exit_ns + self.wait_ns
            self.wait_ns = min(2 * self.wait_ns, LONGEST_NS)
        else:
            self.restarted_ns, self.wait_ns = exit_ns, FIRST_NS
        return self.restarted_ns
