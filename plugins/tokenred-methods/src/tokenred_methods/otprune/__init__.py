"""OTPrune: the tokens of all frames whose channels span most."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("channel-volume", ".channel_volume:ChannelVolumeSelector", "selector")
