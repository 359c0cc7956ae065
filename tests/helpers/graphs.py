"""A gradient that is recorded and replayed."""


def replayed(work):
    """What a CUDA graph does, on a CPU: the work again, into the same tensors."""
    statistics = work()

    def replay():
        for fixed, fresh in zip(statistics, work(), strict=True):
            fixed.copy_(fresh)

    return replay, statistics
