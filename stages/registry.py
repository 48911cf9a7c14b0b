"""Every stage by the name that recipes use. Nothing is imported until it is asked for."""

from stages.stage import Stage


def stages() -> dict[str, type[Stage]]:
    """Name to class, in the order in which a recipe would usually list them."""
    from stages.detect_poses import DetectPoses
    from stages.estimate_depth import EstimateDepth, KnownDepth
    from stages.filter_motion import MotionFilter
    from stages.fingerprint import Fingerprint
    from stages.known_masks import KnownMasks
    from stages.match_lines import MatchLines
    from stages.quality import Header, Quality
    from stages.sample_shots import Shots
    from stages.sample_views import Sync, ViewAngles, ViewGroups
    from stages.sample_windows import Endpoints, Windows

    first = (Shots, Header, Sync, ViewAngles, ViewGroups, Windows, Endpoints, Quality, Fingerprint, KnownMasks)
    return {each.name: each for each in (*first, KnownDepth, MotionFilter, MatchLines, DetectPoses, EstimateDepth)}
