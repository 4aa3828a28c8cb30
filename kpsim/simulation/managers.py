"""The controllers of endpoints that a scenario needs: of slices always, of the older Endpoints objects if there are any.

Counterpart: kube-controller-manager, as far as it writes endpoints. Each of its controllers has a client of its own (CP-1.2 D7).
"""

from kpsim.objects import Endpoints
from kpsim.scenario import Scenario
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock
from kpsim.simulation.controller import SliceController
from kpsim.simulation.endpointscontroller import ENDPOINTS_CONTROLLER, EndpointsController
from kpsim.simulation.mirroring import MIRRORING_CONTROLLER, MirroringController
from kpsim.simulation.runlog import RunLog

CONTROLLERS = ("controller", ENDPOINTS_CONTROLLER, MIRRORING_CONTROLLER)  #: their names on the clock


class Controllers:
    """Without Endpoints objects there is the slice controller alone."""

    def __init__(self, clock: Clock, api: ApiServer, scenario: Scenario, seed: int, log: RunLog) -> None:
        spec = scenario.spec
        limits, delays = spec.controller, spec.delays
        self.slices = SliceController(clock, api, limits, delays, seed, log)
        self._all: list[SliceController | EndpointsController | MirroringController] = [self.slices]
        by_hand = bool(scenario.created_endpoints) or any(isinstance(obj, Endpoints) for obj in scenario.objects)
        if by_hand or spec.endpoints.written:
            self._all.append(EndpointsController(clock, api, spec.endpoints, limits, delays, seed, log))
            self._all.append(MirroringController(clock, api, limits, delays, seed, log))

    def start(self) -> None:
        """Let each write what a cluster that has run for long has, and begin to watch."""
        for controller in self._all:
            controller.start()
