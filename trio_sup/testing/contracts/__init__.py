"""The tests that every strategy must pass: one class per kind, for a plugin's author to subclass.

    class TestMine(PortStrategyContract):
        def make(self):
            return MyPorts(range="21000-21099")

The attributes of each class say what the strategy promises beyond the protocol. The tests run under plain pytest, and
need hypothesis.
"""

from ._gallery_sources import GallerySourceContract
from ._install_locks import InstallLockContract
from ._launch_preparations import LaunchPreparationContract
from ._ports import PortStrategyContract
from ._probes import ProbeContract
from ._restart_policies import RestartPolicyContract
from ._stop_policies import StopPolicyContract
from ._warm_ups import WarmUpContract

__all__ = [
    "GallerySourceContract",
    "InstallLockContract",
    "LaunchPreparationContract",
    "PortStrategyContract",
    "ProbeContract",
    "RestartPolicyContract",
    "StopPolicyContract",
    "WarmUpContract",
]
