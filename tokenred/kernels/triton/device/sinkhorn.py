"""Sinkhorn sweeps, one program a problem.

``sweep_resident`` keeps the kernel matrix in shared memory and brings the scalings near;
``sweep_exact`` finishes in float32, or does everything where the matrix does not fit. Both walk the
same Chebyshev iteration on the anchor scaling, so that one continues where the other stopped.
"""

from typing import no_type_check

import triton
import triton.language as tl

PLAIN_SWEEPS = tl.constexpr(2)
GROWTH = tl.constexpr(2.0)
PATIENCE = tl.constexpr(32)
CHECK_EVERY = tl.constexpr(4)


@triton.jit
@no_type_check  # the type checker of the tests would wrap what Triton compiles
def _accelerated(now, image, before, weight, first, window, fast, step, alpha, gamma, start, real):
    """Return the next anchor scaling of the Chebyshev iteration, and its state.

    ``now`` and its plain ``image`` are scalings, ``before`` the logarithm of the scaling before.
    A problem whose error grows beyond GROWTH times the first starts again, plainly; one whose
    error has not fallen in PATIENCE sweeps goes on plainly.
    """
    log_now = tl.log(tl.where(real, now, 1.0))
    defect = tl.log(tl.where(real, image, 1.0)) - log_now
    error = tl.max(tl.abs(defect), axis=0)
    if step <= 1:
        first = GROWTH * error
        window = error
        weight = weight * 0.0 + 1.0
    elif step == 2:
        weight = 1.0 / (1.0 - gamma * gamma / 2.0)
    else:
        weight = 1.0 / (1.0 - gamma * gamma * weight / 4.0)
    log_next = log_now + alpha * defect
    if step > 1:
        log_next = weight * (log_next - before) + before
    following = tl.exp(log_next)
    # A NaN is within no bound.
    grown = tl.sum(tl.where(tl.abs(defect) <= first, 0, 1), axis=0) > 0
    if fast == 0:
        following = image
    elif (step > 1) & grown:
        fast = fast * 0
        following = start
    elif step % PATIENCE == 0:
        if error >= window:
            fast = fast * 0
            following = image
        window = error
    return tl.where(real, following, 0.0), log_now, weight, first, window, fast


@triton.jit
@no_type_check
def _unsettled(now, image, tolerance, real):
    """Count the anchors whose scaling moves by more than a factor ``1 + tolerance``; NaN does."""
    ratio = tl.where(real, image, 1.0) / tl.where(real, now, 1.0)
    still = (ratio < 1.0 + tolerance) & (ratio * (1.0 + tolerance) > 1.0)
    return tl.sum(tl.where(still, 0, 1), axis=0)


@triton.jit
@no_type_check
def _three_columns(x, column):
    """Write a float32 vector as bfloat16 columns 0, 1, 2 of a matrix; their sum is the vector."""
    first = x.to(tl.bfloat16)
    rest = x - first.to(tl.float32)
    second = rest.to(tl.bfloat16)
    third = (rest - second.to(tl.float32)).to(tl.bfloat16)
    tail = tl.where(column[None, :] == 2, third[:, None], tl.zeros_like(third)[:, None])
    tail = tl.where(column[None, :] == 1, second[:, None], tail)
    return tl.where(column[None, :] == 0, first[:, None], tail)


@triton.jit
@no_type_check
def _matvec(matrix, vector, column, EMULATE: tl.constexpr):
    """Multiply a bfloat16 matrix with a float32 vector on the tensor cores; only sums round."""
    right = _three_columns(vector, column)
    if EMULATE:  # the interpreter multiplies the bits of bfloat16 as if they were integers
        return tl.sum(tl.dot(matrix.to(tl.float32), right.to(tl.float32)), axis=1)
    return tl.sum(tl.dot(matrix, right), axis=1)


@triton.jit
@no_type_check
def sweep_resident(
    scaled,
    source,
    anchor,
    kernel,
    copy,
    next_scaling,
    log_before,
    weight_out,
    n_iter,
    scaled_b,
    scaled_n,
    scaled_m,
    source_b,
    source_n,
    anchor_b,
    anchor_m,
    n,
    m,
    max_sweeps,
    target,
    alpha,
    gamma,
    LAST_ANCHOR: tl.constexpr,
    CHEBYSHEV: tl.constexpr,
    TILES: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    PART: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """Sweep with a bfloat16 matrix in shared memory until scalings move less than ``target``.

    Writes the float32 kernel matrix and the state of the iteration for ``sweep_exact``.
    """
    b = tl.program_id(0).to(tl.int64)
    i, j, column = tl.arange(0, BN), tl.arange(0, BM), tl.arange(0, 16)
    scaled += b * scaled_b
    source += b * source_b
    kernel += b * n * m
    copy += b * TILES * BN * BM
    v = tl.load(anchor + b * anchor_b + j * anchor_m, mask=j < m, other=0.0)
    real = v > 0.0

    # By way of memory: loaded as it is used, the copy goes to shared memory once and stays there.
    h = tl.arange(0, PART)
    ones_sum = tl.zeros([PART, BM], tl.float32)
    for part in range(TILES * BN // PART):
        row = part * PART + h
        inside = (row < n)[:, None] & (j < m)[None, :]
        at = row[:, None] * scaled_n + j[None, :] * scaled_m
        value = tl.exp(-tl.load(scaled + at, mask=inside, other=float("inf")))
        tl.store(kernel + row[:, None] * m + j[None, :], value, mask=inside)
        tl.store(copy + row[:, None] * BM + j[None, :], value.to(tl.bfloat16))
        if not LAST_ANCHOR:
            u = tl.load(source + row * source_n, mask=row < n, other=0.0)
            ones_sum += tl.where((u > 0.0)[:, None], value, 0.0)
    tl.debug_barrier()

    matrices = ()
    masses = ()
    for tile in tl.static_range(TILES):
        row = tile * BN + i
        matrices = matrices + (tl.load(copy + row[:, None] * BM + j[None, :]),)
        masses = masses + (tl.load(source + row * source_n, mask=row < n, other=0.0),)

    if LAST_ANCHOR:
        c = tl.where(real, 1.0, 0.0)
    else:
        c = v / tl.where(real, tl.sum(ones_sum, axis=0), 1.0)
    start = c
    before = tl.zeros([BM], tl.float32)
    weight = target * 0.0 + 1.0
    first, window, fast = weight, weight, 1
    t = 0
    moved = 1
    while (t < max_sweeps) & (moved > 0) & (fast == 1):
        # Only out of a "for" does the compiler move the copies of the matrix to shared memory.
        for _ in range(tl.minimum(CHECK_EVERY, max_sweeps - t)):
            t += 1
            total = tl.zeros([BM], tl.float32)
            for tile in tl.static_range(TILES):
                u = masses[tile]
                d = _matvec(matrices[tile], c, column, EMULATE)
                r = u / tl.where(u > 0.0, d, 1.0)
                total += _matvec(tl.trans(matrices[tile]), r, column, EMULATE)
            image = v / tl.where(real, total, 1.0)
            moved = _unsettled(c, image, target, real)
            # Sweep t + 1 of last "source" is accelerated where sweep t of last "anchor" is.
            step = t - PLAIN_SWEEPS if LAST_ANCHOR else t + 1 - PLAIN_SWEEPS
            following = image
            if CHEBYSHEV:
                if step > 0:
                    following, before, weight, first, window, fast = _accelerated(
                        *(c, image, before, weight, first, window, fast),
                        *(step, alpha, gamma, start, real),
                    )
            c = following
    if fast == 0:  # nothing of this was any good
        c = start
        t = 0

    tl.store(next_scaling + b * m + j, c, mask=j < m)
    tl.store(log_before + b * m + j, before, mask=j < m)
    tl.store(weight_out + 3 * b, weight)
    tl.store(weight_out + 3 * b + 1, first)
    tl.store(weight_out + 3 * b + 2, window)
    tl.store(n_iter + b, t)


@triton.jit
@no_type_check
def sweep_exact(
    scaled,
    source,
    anchor,
    plan,
    rows,
    source_scaling,
    anchor_scaling,
    log_before,
    weight_in,
    n_iter,
    done,
    scaled_b,
    scaled_n,
    scaled_m,
    source_b,
    source_n,
    anchor_b,
    anchor_m,
    n,
    m,
    max_iter,
    tolerance,
    alpha,
    gamma,
    RESIDUAL: tl.constexpr,
    SCALING: tl.constexpr,
    LAST_ANCHOR: tl.constexpr,
    CHEBYSHEV: tl.constexpr,
    WARM: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
):
    """Sweep in float32 until the stop rule holds, then write scalings and plan.

    The kernel matrix lies where the plan will be and is read once a sweep: a tile gives its rows'
    scalings and, while it is in registers, its part of the sum over rows. ``rows`` (2, n) holds the
    source scalings of the last two sweeps, for the rules that compare them.
    """
    b = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, BN), tl.arange(0, BM)
    column = (j < m)[None, :]
    scaled += b * scaled_b
    source += b * source_b
    plan += b * n * m
    rows += b * 2 * n
    v = tl.load(anchor + b * anchor_b + j * anchor_m, mask=j < m, other=0.0)
    real = v > 0.0
    v_most = tl.max(v, axis=0)
    tiles = tl.cdiv(n, BN)

    # First pass: masses, the kernel matrix, and its column sums.
    ones_sum = tl.zeros([BN, BM], tl.float32)
    u_all = tl.zeros([BN], tl.float32)
    u_count = tl.zeros([BN], tl.float32)
    for tile in range(tiles):
        row = tile * BN + i
        inside = (row < n)[:, None] & column
        u = tl.load(source + row * source_n, mask=row < n, other=0.0)
        u_all = tl.maximum(u_all, u)
        u_count += tl.where(u > 0.0, 1.0, 0.0)
        tl.store(rows + row, tl.full([BN], 1.0, tl.float32), mask=row < n)
        if not WARM:
            at = row[:, None] * scaled_n + j[None, :] * scaled_m
            value = tl.exp(-tl.load(scaled + at, mask=inside, other=float("inf")))
            tl.store(plan + row[:, None] * m + j[None, :], value, mask=inside)
            if not LAST_ANCHOR:
                ones_sum += tl.where((u > 0.0)[:, None], value, 0.0)
    # Where one side is padding alone, the other side counts as padding too.
    u_most = tl.max(u_all, axis=0)
    u_real = tl.sum(u_count, axis=0)
    if u_most <= 0.0:
        v = v * 0.0
        v_most = v_most * 0.0
    real = v > 0.0
    if v_most <= 0.0:
        u_most = u_most * 0.0
        u_real = u_real * 0.0
    u_real = tl.maximum(u_real, 1.0)
    tl.debug_barrier()

    t = 0
    before = tl.zeros([BM], tl.float32)
    weight = tolerance * 0.0 + 1.0
    first, window, fast = weight, weight, 1
    if WARM:
        t = tl.load(n_iter + b).to(tl.int32)
        c = tl.load(anchor_scaling + b * m + j, mask=j < m, other=0.0)
        before = tl.load(log_before + b * m + j, mask=j < m, other=0.0)
        weight = tl.load(weight_in + 3 * b)
        first = tl.load(weight_in + 3 * b + 1)
        window = tl.load(weight_in + 3 * b + 2)
    elif LAST_ANCHOR:
        c = tl.where(real, 1.0, 0.0)
    else:
        c = v / tl.where(real, tl.sum(ones_sum, axis=0), 1.0)
    start = c
    t_start = t
    chosen = t & 1
    result = c
    stopped = 0
    was_plain = 1
    while (t < max_iter) & (stopped == 0):
        t += 1
        slot = t & 1
        total = tl.zeros([BN, BM], tl.float32)
        change = tl.zeros([BN], tl.float32)
        over = tl.zeros([BN], tl.int32)
        for tile in range(tiles):
            row = tile * BN + i
            inside = (row < n)[:, None] & column
            value = tl.load(plan + row[:, None] * m + j[None, :], mask=inside, other=0.0)
            u = tl.load(source + row * source_n, mask=row < n, other=0.0)
            u = tl.where(v_most > 0.0, u, 0.0)
            d = tl.sum(value * c[None, :], axis=1)
            r = u / tl.where(u > 0.0, d, 1.0)
            total += value * r[:, None]
            if SCALING or (RESIDUAL and LAST_ANCHOR):
                old = tl.load(rows + (1 - slot) * n + row, mask=row < n, other=0.0)
                change += tl.where(u > 0.0, tl.abs(r - old), 0.0)
                # A NaN is never below, so it never counts as an answer.
                wrong = tl.abs(tl.where(u > 0.0, old * d, 0.0) - u) < tolerance * u_most
                over += tl.where(wrong, 0, 1)
            tl.store(rows + slot * n + row, r, mask=row < n)
        s = tl.sum(total, axis=0)
        image = v / tl.where(real, s, 1.0)
        chosen = slot
        if LAST_ANCHOR:
            result = image
        else:
            result = c
        if SCALING:
            if tl.sum(change, axis=0) / u_real < tolerance:
                stopped = 1
        # With sources last, the anchors that are scaled now belong to the next sweep.
        step = t - PLAIN_SWEEPS if LAST_ANCHOR else t + 1 - PLAIN_SWEEPS
        if RESIDUAL:
            if LAST_ANCHOR:
                # After a plain sweep this one shows the error that it left. After an accelerated
                # one the anchors lie elsewhere; but no source is off by more, relatively, than
                # the scaling of an anchor moves.
                if (t > t_start + 1) & (was_plain == 1) & (tl.sum(over, axis=0) == 0):
                    stopped = 1
                    t -= 1
                    chosen = 1 - slot
                    result = c
                elif CHEBYSHEV:
                    if (step > 0) & (v_most > 0.0) & (_unsettled(c, image, tolerance, real) == 0):
                        stopped = 1
            else:
                off = tl.where(real, tl.abs(c * s - v), 0.0) < tolerance * v_most
                if tl.sum(tl.where(off, 0, 1), axis=0) == 0:
                    stopped = 1
        following = image
        if CHEBYSHEV:
            was_plain = 1
            if step > 0:
                was_plain = 0
                following, before, weight, first, window, fast = _accelerated(
                    *(c, image, before, weight, first, window, fast),
                    *(step, alpha, gamma, start, real),
                )
        c = following
        tl.debug_barrier()

    # Last pass: the plan, over the kernel matrix.
    over = tl.zeros([BN], tl.int32)
    for tile in range(tiles):
        row = tile * BN + i
        inside = (row < n)[:, None] & column
        at = plan + row[:, None] * m + j[None, :]
        value = tl.load(at, mask=inside, other=0.0)
        r = tl.load(rows + chosen * n + row, mask=row < n, other=0.0)
        part = value * r[:, None] * result[None, :]
        tl.store(at, part, mask=inside)
        tl.store(source_scaling + b * n + row, r, mask=row < n)
        if RESIDUAL and LAST_ANCHOR:
            u = tl.load(source + row * source_n, mask=row < n, other=0.0)
            u = tl.where(v_most > 0.0, u, 0.0)
            met = tl.abs(tl.sum(part, axis=1) - u) < tolerance * u_most
            over += tl.where(met, 0, 1)
    if RESIDUAL and LAST_ANCHOR:
        if tl.sum(over, axis=0) == 0:
            stopped = 1
    tl.store(anchor_scaling + b * m + j, result, mask=j < m)
    tl.store(n_iter + b, t)
    tl.store(done + b, stopped)
