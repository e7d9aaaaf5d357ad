"""A structured-concurrency supervisor for gRPC backend processes.

The public names load lazily, so that `trio-sup --version` does not pay for Trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy

if TYPE_CHECKING:
    from ._gallery_errors import ArchiveTooLarge as ArchiveTooLarge
    from ._gallery_errors import DigestMismatch as DigestMismatch
    from ._gallery_errors import DownloadFailed as DownloadFailed
    from ._gallery_errors import GalleryUnavailable as GalleryUnavailable
    from ._gallery_errors import InstallFailed as InstallFailed
    from ._gallery_errors import NoGalleries as NoGalleries
    from ._gallery_errors import NotABackend as NotABackend
    from ._gallery_errors import NotProven as NotProven
    from ._gallery_errors import ReleaseInUse as ReleaseInUse
    from ._gallery_errors import UnknownEntry as UnknownEntry
    from ._gallery_errors import UnknownRelease as UnknownRelease
    from ._gallery_errors import UnknownSource as UnknownSource
    from ._gallery_errors import UnsafeArchive as UnsafeArchive
    from ._log_lines import LinesLost as LinesLost
    from ._log_lines import LogLine as LogLine
    from ._phases import Cause as Cause
    from ._phases import Phase as Phase
    from ._phases import Then as Then
    from ._releases import Deleted as Deleted
    from ._releases import InstallPhase as InstallPhase
    from ._releases import InstallProgress as InstallProgress
    from ._releases import Metadata as Metadata
    from ._releases import Release as Release
    from ._releases import UnpackLimits as UnpackLimits
    from ._releases import Upgraded as Upgraded
    from ._reports import Backend as Backend
    from ._reports import ExitReport as ExitReport
    from ._reports import ExitStatus as ExitStatus
    from ._reports import Leftover as Leftover
    from ._reports import StopReport as StopReport
    from ._reports import Survivor as Survivor
    from ._values import BackendSpec as BackendSpec
    from ._values import Choice as Choice
    from ._values import Liveness as Liveness
    from ._values import LogSettings as LogSettings
    from ._values import ProcessKey as ProcessKey
    from ._values import Readiness as Readiness
    from .engine import PluginError as PluginError
    from .engine import Supervisor as Supervisor
    from .engine import load_plugins as load_plugins
    from .engine import open_supervisor as open_supervisor
    from .errors import AttemptCrashed as AttemptCrashed
    from .errors import CallFailed as CallFailed
    from .errors import ConfigError as ConfigError
    from .errors import DependencyCycle as DependencyCycle
    from .errors import DiedDuringStartup as DiedDuringStartup
    from .errors import GivenUp as GivenUp
    from .errors import InvalidCommand as InvalidCommand
    from .errors import InvalidOptions as InvalidOptions
    from .errors import InvalidValue as InvalidValue
    from .errors import LaunchFailed as LaunchFailed
    from .errors import NeedFailed as NeedFailed
    from .errors import NoPortAvailable as NoPortAvailable
    from .errors import NoRoom as NoRoom
    from .errors import NotReadyInTime as NotReadyInTime
    from .errors import SignificantEnded as SignificantEnded
    from .errors import SpecConflict as SpecConflict
    from .errors import StartFailed as StartFailed
    from .errors import StateDirectoryInUse as StateDirectoryInUse
    from .errors import StillNeeded as StillNeeded
    from .errors import StopFailed as StopFailed
    from .errors import StoppedDuringStartup as StoppedDuringStartup
    from .errors import SupervisorClosed as SupervisorClosed
    from .errors import TooFewDescriptors as TooFewDescriptors
    from .errors import TrioSupError as TrioSupError
    from .errors import UnknownBackend as UnknownBackend
    from .errors import UnknownStrategy as UnknownStrategy
    from .errors import Unsupported as Unsupported
    from .errors import WarmUpFailed as WarmUpFailed
    from .gallery._catalogue import Catalogue as Catalogue
    from .gallery._gallery import Gallery as Gallery
    from .gallery._index import IndexEntry as IndexEntry
    from .gallery._installing import Upgrade as Upgrade
    from .gallery._settings import Galleries as Galleries
    from .hookspecs import hookimpl as hookimpl

_HOMES = {
    "_gallery_errors": (
        "ArchiveTooLarge", "DigestMismatch", "DownloadFailed", "GalleryUnavailable", "InstallFailed", "NoGalleries",
        "NotABackend", "NotProven", "ReleaseInUse", "UnknownEntry", "UnknownRelease", "UnknownSource", "UnsafeArchive",
    ),
    "_log_lines": ("LinesLost", "LogLine"),
    "_phases": ("Cause", "Phase", "Then"),
    "_releases": (
        "Deleted", "InstallPhase", "InstallProgress", "Metadata", "Release", "UnpackLimits", "Upgraded",
    ),
    "_reports": ("Backend", "ExitReport", "ExitStatus", "Leftover", "StopReport", "Survivor"),
    "_values": ("BackendSpec", "Choice", "Liveness", "LogSettings", "ProcessKey", "Readiness"),
    "engine": ("PluginError", "Supervisor", "load_plugins", "open_supervisor"),
    "errors": (
        "AttemptCrashed", "CallFailed", "ConfigError", "DependencyCycle", "DiedDuringStartup", "GivenUp",
        "InvalidCommand", "InvalidOptions", "InvalidValue", "LaunchFailed", "NeedFailed", "NoPortAvailable", "NoRoom",
        "NotReadyInTime", "SignificantEnded", "SpecConflict", "StartFailed", "StateDirectoryInUse", "StillNeeded",
        "StopFailed", "StoppedDuringStartup", "SupervisorClosed", "TooFewDescriptors", "TrioSupError",
        "UnknownBackend", "UnknownStrategy", "Unsupported", "WarmUpFailed",
    ),
    "gallery._catalogue": ("Catalogue",),
    "gallery._gallery": ("Gallery",),
    "gallery._index": ("IndexEntry",),
    "gallery._installing": ("Upgrade",),
    "gallery._settings": ("Galleries",),
    "hookspecs": ("hookimpl",),
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
__version__ = "0.1.0"
