/* Sinkhorn scaling in the kernel domain, with one pass over K in every sweep.
 *
 * Row i of K gives r_i = u_i / <K_i, c>, and while it is near, s += r_i K_i; after the last row
 * c = v / s. So a sweep reads K once, from the L2 cache: K of one problem is made from the cost
 * there, turned into the plan there, and never written to memory.
 *
 * Rows are taken four at a time. While the dots of a block are summed, the rows of the block
 * before the last are added to s, so that fetches and multiplications run all the time, and the
 * sum over lanes and the division of the block between have time to finish.
 *
 * Every row goes through the same instructions wherever it stands: equal rows get scalings that
 * are equal to the last bit. What has no mass has zeros in K, as have the rows and columns that
 * fill up the last block and the last vector.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_mask __attribute__((vector_size(16)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__) || __GNUC__ >= 12
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif

INLINE vec load(const float *at) { return *(const loose *)at; }
INLINE void store(float *at, vec x) { *(loose *)at = x; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec either(mask yes, vec a, vec b) { return (vec)((yes & (mask)a) | (~yes & (mask)b)); }

/* e^x to about 1 ulp: 2^n e^f with |f| <= ln 2 / 2, and the polynomial of Cephes' expf. */
INLINE vec exponential(vec x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = either(x > splat(89.0f), splat(89.0f), x);
    x = either(x < splat(-104.0f), splat(-104.0f), x);
    vec shifted = x * splat(1.44269504088896341f) + splat(round);
    mask n = (mask)shifted - (mask)splat(round);
    vec whole = shifted - splat(round);
    vec f = x - whole * splat(0.693359375f);
    f = f - whole * splat(-2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * f + splat(1.3981999507e-3f);
    p = p * f + splat(8.3334519073e-3f);
    p = p * f + splat(4.1665795894e-2f);
    p = p * f + splat(1.6666665459e-1f);
    p = p * f + splat(5.0000001201e-1f);
    p = p * (f * f) + f;
    p = p + splat(1.0f);
    mask half = n >> 1; /* two factors, so that subnormal results are right too */
    return p * (vec)((half + 127) << 23) * (vec)((n - half + 127) << 23);
}

/* Natural logarithm (Cephes' logf); what is not normal counts as zero. */
INLINE vec logarithm(vec x) {
    mask normal = (x >= splat(1.17549435e-38f)) & (x <= splat(3.40282347e38f));
    mask bits = (mask)x - 0x3f3504f3; /* so that the fraction is in [sqrt(1/2), sqrt(2)) */
    vec n = __builtin_convertvector(bits >> 23, vec);
    vec f = (vec)((bits & 0x007fffff) + 0x3f3504f3) - splat(1.0f);
    vec square = f * f;
    vec p = splat(7.0376836292e-2f);
    p = p * f + splat(-1.1514610310e-1f);
    p = p * f + splat(1.1676998740e-1f);
    p = p * f + splat(-1.2420140846e-1f);
    p = p * f + splat(1.4249322787e-1f);
    p = p * f + splat(-1.6668057665e-1f);
    p = p * f + splat(2.0000714765e-1f);
    p = p * f + splat(-2.4999993993e-1f);
    p = p * f + splat(3.3333331174e-1f);
    p = p * f * square;
    p = p + n * splat(-2.12194440e-4f);
    p = p - square * splat(0.5f);
    p = f + p;
    p = p + n * splat(0.693359375f);
    vec small = either(x >= splat(0), splat(-__builtin_inff()), splat(__builtin_nanf("")));
    return either(normal, p, either(x > splat(1), x, small));
}

/* Four sums over lanes at once, each by the same tree. */
INLINE quad sums(vec a, vec b, vec c, vec d) {
#if LANES == 16
    a = MIX(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
        MIX(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    c = MIX(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
        MIX(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    a = MIX(a, c, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
        MIX(a, c, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    a = a + MIX(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    a = a + MIX(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
#elif LANES == 8
    a = MIX(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + MIX(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    c = MIX(c, d, 0, 8, 1, 9, 4, 12, 5, 13) + MIX(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    a = MIX(a, c, 0, 1, 8, 9, 4, 5, 12, 13) + MIX(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
    a = a + MIX(a, a, 4, 5, 6, 7, 0, 1, 2, 3);
#else
    a = MIX(a, b, 0, 4, 1, 5) + MIX(a, b, 2, 6, 3, 7);
    c = MIX(c, d, 0, 4, 1, 5) + MIX(c, d, 2, 6, 3, 7);
    a = MIX(a, c, 0, 1, 4, 5) + MIX(a, c, 2, 3, 6, 7);
#endif
    quad low;
    memcpy(&low, &a, sizeof low);
    return low;
}

/* x becomes its transpose, LANES x LANES: interleave halves as often as it takes. */
INLINE void transpose(vec *x) {
    vec y[LANES];
    for (int step = 1; step < LANES; step *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            vec a = x[i], b = x[i + LANES / 2];
#if LANES == 16
            y[2 * i] = MIX(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            y[2 * i + 1] =
                MIX(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LANES == 8
            y[2 * i] = MIX(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
            y[2 * i + 1] = MIX(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
            y[2 * i] = MIX(a, b, 0, 4, 1, 5);
            y[2 * i + 1] = MIX(a, b, 2, 6, 3, 7);
#endif
        }
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

/* One problem and its working memory; `rows` and `columns` are n and m, filled up to vectors. */
typedef struct {
    int64_t n, m, rows, columns, real;  /* real: the rows with mass */
    float *kernel;                     /* K in blocks: [block][vector of columns][row][lane] */
    float *source, *r, *before, *dots; /* rows: u, r, r of the sweep before, K c */
    float *anchor, *c, *s;             /* columns: v, c, K^T r */
    float *start, *defect, *move;      /* columns: first c, log(v / (s c)), last move of log c */
} Problem;

/* What the caller asks for; the strides are in elements. */
typedef struct {
    int64_t problems, n, m, problem_stride, row_stride, column_stride;
    int64_t max_iter, stop, source_last, threads;
    float epsilon, tolerance, defect_tolerance, rho; /* rho 0: no acceleration */
} Order;

enum { NONE, RESIDUAL, SCALING };

/* What happened to one problem: sweeps, whether it stopped by the rule, the sweep after which it
 * went on without acceleration or 0, and whether it began anew there. */
typedef struct {
    int64_t n_iter, done, fell, restarted;
} Outcome;

#define ROWS 4
#define DELAY 2       /* blocks between the dots of a row and its part in s */
#define PLAIN_SWEEPS 2 /* before the first accelerated one */
#define GROWTH 2.0f    /* an error that exceeds the first by this starts again, plainly */
#define PATIENCE 32    /* accelerated sweeps after which the error must have fallen */

static int64_t filled(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/* One block of rows: the sums of K c ahead, and s += r K behind; NULL leaves one of them out. */
INLINE quad block(Problem *p, const float *ahead, const float *behind, const float *r) {
    vec d[ROWS] = {{0}}, weight[ROWS] = {{0}};
    for (int q = 0; behind && q < ROWS; q++) weight[q] = splat(r[q]);
    for (int64_t j = 0; j < p->columns; j += LANES) {
        vec c = load(p->c + j), s = load(p->s + j);
        for (int q = 0; q < ROWS; q++) {
            if (ahead) d[q] += load(ahead + j * ROWS + q * LANES) * c;
            if (behind) s += load(behind + j * ROWS + q * LANES) * weight[q];
        }
        if (behind) store(p->s + j, s);
    }
    return sums(d[0], d[1], d[2], d[3]);
}

/* dots = K c and r = u / dots of one block; 0 where there is no mass. */
INLINE void scale_rows(Problem *p, int64_t row, quad dots) {
    quad u;
    memcpy(&u, p->source + row, sizeof u);
    quad r = (quad)((u > (quad){0}) & (quad_mask)(u / dots));
    memcpy(p->dots + row, &dots, sizeof dots);
    memcpy(p->r + row, &r, sizeof r);
}

/* dots = K c, r = u / dots and s = K^T r; the r before is kept. */
static void sweep(Problem *p) {
    int64_t rows = filled(p->n, ROWS), delay = DELAY * ROWS, row = 0;
    float *r = p->before;
    p->before = p->r, p->r = r;
    memset(p->s, 0, p->columns * sizeof(float));
    for (; row < delay && row < rows; row += ROWS)
        scale_rows(p, row, block(p, p->kernel + row * p->columns, NULL, NULL));
    for (; row < rows; row += ROWS) {
        const float *ahead = p->kernel + row * p->columns;
        scale_rows(p, row, block(p, ahead, ahead - delay * p->columns, r + row - delay));
    }
    for (row = rows > delay ? rows - delay : 0; row < rows; row += ROWS)
        block(p, NULL, p->kernel + row * p->columns, r + row);
}

static void back(Problem *p) {
    float *r = p->before;
    p->before = p->r, p->r = r;
}

/* c = v / s. */
static void scale_columns(Problem *p) {
    for (int64_t j = 0; j < p->columns; j += LANES) {
        vec v = load(p->anchor + j), c = v / load(p->s + j);
        store(p->c + j, either(v > splat(0), c, splat(0)));
    }
}

/* The largest of some values that are not negative; NaN if there is one. */
INLINE float largest_of(vec most, vec sum) {
    float found = 0, total = 0;
    for (int i = 0; i < LANES; i++) {
        found = most[i] > found ? most[i] : found;
        total += sum[i];
    }
    return total == total ? found : total;
}

INLINE vec absolute(vec x) { return (vec)(0x7fffffff & (mask)x); }

/* defect = log(v / (s c)), what a plain sweep would change log c by; returns the largest. */
static float find_defect(Problem *p) {
    vec most = {0}, sum = {0};
    for (int64_t j = 0; j < p->columns; j += LANES) {
        vec v = load(p->anchor + j), c = load(p->c + j), s = load(p->s + j);
        vec defect = either(v > splat(0), logarithm(v / (s * c)), splat(0));
        store(p->defect + j, defect);
        most = either(absolute(defect) > most, absolute(defect), most);
        sum += absolute(defect);
    }
    return largest_of(most, sum);
}

/* log c moves by momentum times its last move and step times the defect. Differences alone enter,
 * so rounding does not grow with log c. */
static void move_columns(Problem *p, float momentum, float step) {
    for (int64_t j = 0; j < p->columns; j += LANES) {
        vec move = splat(momentum) * load(p->move + j) + splat(step) * load(p->defect + j);
        store(p->move + j, move);
        store(p->c + j, load(p->c + j) * exponential(move));
    }
}

/* The largest |c s - v|. */
static float column_error(const Problem *p) {
    vec most = {0}, sum = {0};
    for (int64_t j = 0; j < p->columns; j += LANES) {
        vec error = absolute(load(p->anchor + j) - load(p->c + j) * load(p->s + j));
        most = either(error > most, error, most);
        sum += error;
    }
    return largest_of(most, sum);
}

/* The largest |r K c - u| with the r before; the K c of this sweep are its sums. */
static float row_error(const Problem *p) {
    vec most = {0}, sum = {0};
    for (int64_t i = 0; i < p->rows; i += LANES) {
        vec error = absolute(load(p->source + i) - load(p->before + i) * load(p->dots + i));
        most = either(error > most, error, most);
        sum += error;
    }
    return largest_of(most, sum);
}

/* The sum of |r - before|. */
static float change(const Problem *p) {
    vec sum = {0};
    for (int64_t i = 0; i < p->rows; i += LANES) {
        sum += absolute(load(p->r + i) - load(p->before + i));
    }
    float total = 0;
    for (int i = 0; i < LANES; i++) total += sum[i];
    return total;
}

/* Whether the mean change is below the tolerance; every sweep's sum is kept where it is wanted. */
static int steady(const Problem *p, const Order *o, int64_t k, float *changes) {
    if (o->stop != SCALING && !changes) return 0;
    float sum = change(p);
    if (changes) changes[k - 1] = sum;
    return o->stop == SCALING && sum / (p->real > 1 ? p->real : 1) < o->tolerance;
}

static float largest(const float *x, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* The state of Chebyshev's semi-iteration, and of the guard over it. */
typedef struct {
    int taken; /* accelerated sweeps */
    float weight, first, window;
} Acceleration;

/* Move c with acceleration, or plainly once a problem was seen to be better off without. */
static void accelerate(Problem *p, const Order *o, int64_t k, float error, Acceleration *a,
                       Outcome *out) {
    float alpha = 2 / (2 - o->rho), gamma = o->rho / (2 - o->rho), square = gamma * gamma;
    a->taken++;
    if (a->taken == 1) {
        a->weight = 1;
        a->first = GROWTH * error;
        a->window = error;
    } else if (a->taken == 2) a->weight = 1 / (1 - square / 2);
    else a->weight = 1 / (1 - square * a->weight / 4);
    int restart = !out->fell && !(error <= a->first), tired = 0;
    if (a->taken % PATIENCE == 0) {
        tired = !out->fell && error >= a->window;
        a->window = error;
    }
    if (restart || tired) out->fell = k;
    if (restart) {
        out->restarted = 1;
        memcpy(p->c, p->start, p->columns * sizeof(float));
        memset(p->move, 0, p->columns * sizeof(float));
    } else if (out->fell) move_columns(p, 0, 1);
    else move_columns(p, a->weight - 1, a->weight * alpha);
}

static int is_plain(const Order *o, int64_t k) { return o->rho == 0 || k <= PLAIN_SWEEPS; }

/* Sweep until the rule is met; r and c are those of the plan afterwards.
 *
 * With the anchors last, the error of a plain sweep is read off the K c of the one that follows.
 * An accelerated sweep has moved c elsewhere by then, so there the defect is bounded instead: the
 * closing sweep multiplies what each anchor has of a source by exp(defect). */
static Outcome iterate(Problem *p, const Order *o, float *changes) {
    Outcome out = {0, 0, 0, 0};
    Acceleration state = {0, 1, 0, 0};
    int residual = o->stop == RESIDUAL, anchors_last = !o->source_last;
    float limit = o->tolerance * (anchors_last ? largest(p->source, p->n) : largest(p->anchor, p->m));
    if (!anchors_last) {
        memset(p->s, 0, p->columns * sizeof(float));
        for (int64_t row = 0; row < filled(p->n, ROWS); row += ROWS)
            block(p, NULL, p->kernel + row * p->columns, p->r + row);
        scale_columns(p);
    }
    memcpy(p->start, p->c, p->columns * sizeof(float));
    while (out.n_iter < o->max_iter && !out.done) {
        int64_t k = ++out.n_iter;
        float error = 0;
        sweep(p);
        if (residual && anchors_last && k > 1 && is_plain(o, k - 1) && row_error(p) < limit) {
            back(p);
            out.n_iter = k - 1;
            out.done = 1;
            return out;
        }
        out.done = steady(p, o, k, changes);
        /* With the sources last, the c that is made now belongs to the next sweep. */
        int plain = is_plain(o, anchors_last ? k : k + 1), final = k == o->max_iter;
        if (!plain) error = find_defect(p);
        if (residual && anchors_last) out.done = !plain && error < o->defect_tolerance;
        else if (residual) out.done = (error = column_error(p)) < limit;
        if (out.done || final) break;
        if (plain) scale_columns(p);
        else accelerate(p, o, k, error, &state, &out);
    }
    if (!anchors_last) return out;
    scale_columns(p);
    if (residual && !out.done && is_plain(o, out.n_iter)) {
        sweep(p); /* there was no half sweep yet that shows the error of the last one */
        out.done = row_error(p) < limit;
        back(p);
    }
    return out;
}

/* The vector at `from`, with zeros after `last`, the last element of the tensor. */
INLINE vec fetch(const float *from, const float *last) {
    if (from + LANES - 1 <= last) return load(from);
    vec x = {0};
    for (int i = 0; i < LANES; i++)
        if (from + i <= last) x[i] = from[i];
    return x;
}

/* LANES rows of LANES columns of the cost, whatever its strides; zeros beyond its end. */
INLINE void read_tile(const Problem *p, const Order *o, const float *cost, const float *last,
                      int64_t i, int64_t j, vec *x) {
    int64_t down = o->row_stride, along = o->column_stride;
    const float *corner = cost + i * down + j * along;
    if (along == 1 || down == 1) {
        int64_t jump = along == 1 ? down : along, left = along == 1 ? p->n - i : p->m - j;
        for (int q = 0; q < LANES; q++)
            x[q] = q < left ? fetch(corner + q * jump, last) : splat(0);
        if (along != 1) transpose(x);
        return;
    }
    for (int q = 0; q < LANES; q++)
        for (int lane = 0; lane < LANES; lane++)
            x[q][lane] = i + q < p->n && j + lane < p->m ? corner[q * down + lane * along] : 0;
}

INLINE void fill_tile(Problem *p, const Order *o, const float *cost, const float *last,
                      int64_t i, int64_t j) {
    vec x[LANES];
    read_tile(p, o, cost, last, i, j, x);
    mask live = load(p->anchor + j) > splat(0);
    for (int q = 0; q < LANES && i + q < filled(p->n, ROWS); q++) {
        int64_t row = i + q, first = row / ROWS * ROWS;
        mask real = live & -(int32_t)(p->source[row] > 0);
        store(p->kernel + first * p->columns + j * ROWS + row % ROWS * LANES,
              (vec)(real & (mask)exponential(x[q] / splat(-o->epsilon))));
    }
}

/* K = exp(-cost / epsilon) in blocks; 0 where a row or a column has no mass. */
static void fill_kernel(Problem *p, const Order *o, const float *cost, const float *last) {
    if (o->row_stride == 1) /* in the order of the memory */
        for (int64_t j = 0; j < p->columns; j += LANES)
            for (int64_t i = 0; i < p->rows; i += LANES) fill_tile(p, o, cost, last, i, j);
    else
        for (int64_t i = 0; i < p->rows; i += LANES)
            for (int64_t j = 0; j < p->columns; j += LANES) fill_tile(p, o, cost, last, i, j);
}

/* plan = r K c. Vectors may reach into the next row, which is written after. */
static void write_plan(const Problem *p, float *plan) {
    for (int64_t row = 0; row < p->n; row++) {
        const float *k = p->kernel + row / ROWS * ROWS * p->columns + row % ROWS * LANES;
        for (int64_t j = 0; j < p->m; j += LANES) {
            vec x = splat(p->r[row]) * load(k + j * ROWS) * load(p->c + j);
            int64_t at = row * p->m + j, left = p->n * p->m - at;
            if (left >= LANES) store(plan + at, x);
            else memcpy(plan + at, &x, left * sizeof(float));
        }
    }
}

static float *reserve(Problem *p, const Order *o) {
    p->n = o->n, p->m = o->m;
    p->rows = filled(p->n, LANES), p->columns = filled(p->m, LANES);
    float **rows[] = {&p->source, &p->r, &p->before, &p->dots};
    float **columns[] = {&p->anchor, &p->c, &p->s, &p->start, &p->defect, &p->move};
    int64_t kernel = filled(p->n, ROWS) * p->columns;
    size_t bytes = (kernel + 4 * p->rows + 6 * p->columns) * sizeof(float);
    float *memory = aligned_alloc(64, filled(bytes, 64)), *next = memory;
    if (!memory) return NULL;
    p->kernel = next, next += kernel;
    for (int i = 0; i < 4; i++) *rows[i] = next, next += p->rows;
    for (int i = 0; i < 6; i++) *columns[i] = next, next += p->columns;
    return memory;
}

static void start(Problem *p, const float *source, const float *anchor) {
    memset(p->source, 0, 4 * p->rows * sizeof(float)); /* all of the rows, and of the columns */
    memset(p->anchor, 0, 6 * p->columns * sizeof(float));
    if (largest(source, p->n) > 0 && largest(anchor, p->m) > 0) { /* or nothing can be shipped */
        memcpy(p->source, source, p->n * sizeof(float));
        memcpy(p->anchor, anchor, p->m * sizeof(float));
    }
    p->real = 0;
    for (int64_t i = 0; i < p->n; i++) p->real += p->r[i] = p->source[i] > 0;
    for (int64_t j = 0; j < p->m; j++) p->c[j] = p->anchor[j] > 0;
}

/* Solve all problems; the masses and what is returned are contiguous. `changes` holds, for each
 * problem and sweep, the sum of what r moved by; or it is NULL. Returns 0, or 1 without memory,
 * when nothing that was written counts. */
int tokenred_sinkhorn(const Order *o, const float *cost, const float *source, const float *anchor,
                      float *plan, float *r, float *c, float *changes, Outcome *outcomes) {
    int failed = 0;
    const float *last = cost + (o->problems - 1) * o->problem_stride +
                        (o->n - 1) * o->row_stride + (o->m - 1) * o->column_stride;
#pragma omp parallel num_threads((int)o->threads) if (o->threads > 1)
    {
        Problem p;
        float *memory = reserve(&p, o);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < o->problems; b++) {
            if (!memory) {
                failed = 1;
                continue;
            }
            start(&p, source + b * o->n, anchor + b * o->m);
            fill_kernel(&p, o, cost + b * o->problem_stride, last);
            outcomes[b] = iterate(&p, o, changes ? changes + b * o->max_iter : NULL);
            write_plan(&p, plan + b * o->n * o->m);
            memcpy(r + b * o->n, p.r, o->n * sizeof(float));
            memcpy(c + b * o->m, p.c, o->m * sizeof(float));
        }
        free(memory);
    }
    return failed;
}

/* What K is made with, for tests. */
void tokenred_exponential(const float *x, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec value = exponential(fetch(x + i, x + count - 1));
        memcpy(y + i, &value, (count - i < LANES ? count - i : LANES) * sizeof(float));
    }
}
