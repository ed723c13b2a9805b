"""The peak of what the allocator gives out during a training step."""

import gc
from itertools import accumulate
from statistics import median

from torch.profiler import ProfilerActivity, profile


def peak_of(adapter, step, times=3):
    """The most that was allocated at once during a call, over what was there before it.

    Of several calls the median: the profiler orders what happens in one microsecond as it likes, which can shift a
    peak by a tenth. A call that nobody profiles comes before each, since what a profiled one leaves would be taken off
    the next one's peak, as would garbage of others.
    """
    peaks = []
    for _ in range(times):
        step()
        adapter.zero_grad(set_to_none=True)
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            step()
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        peaks.append(max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))))
    return median(peaks)
