"""The agent of a box, with short delays before its reports."""

from opq_twisted.box.report import delay, scheduler
from opq_twisted.cli.daemon import box_agent

#: Seconds, instead of minutes.
_DELAY = 0.5

if __name__ == "__main__":
    scheduler._FIRST_DELAY = scheduler._FIRST_SPREAD = _DELAY
    delay._FIRST_BACKOFF = delay._MAX_BACKOFF = _DELAY
    box_agent()
