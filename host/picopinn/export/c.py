"""C: one header with the weights, and a main that checks itself. Both need ``kernels_c`` alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..errors import UsageError
from ..kernels import NUMBERS, Plan
from ..network import ACTIVATIONS, MODES, Chain, Stage
from ..network import DEFAULT_PRECISION as WIDTHS
from ..settings import FLOAT
from .expression import Formulas
from .int8 import calibration_points
from .trained import Trained

_CHECKED = 16  # points whose values the main compares
_ROUNDING = 1e-9  # of a constraint's formulas
_COLUMNS = 110  # of a line of numbers

_HEADER = """\
/* {title}
 *
 *   if (!{name}_open()) ...                 once: unpacks the weights; 0 if all is well
 *   {name}(count, points, values);          u at points (x1, x2, ...), doubles
 *
 * {bits}: four at a time share a block, so a point
 * by itself may end with other bits than among others. Include this in one source file, and compile it with
 * kernels_c/src/?*.c and -Ikernels_c/include. It takes {memory:,} bytes of memory and {constants:,} of constants.
 */
#ifndef {guard}
#define {guard}

#include "ppn/ppn.h"

{headers}
#if PPN_VERSION != {numbers}
#error "this was exported for version {numbers} of the arithmetic: take the kernels_c of that picopinn, or export anew"
#endif

#define {upper}_INPUTS {inputs}

static const ppn_stage {name}_stages[] = {stages};
static const ppn_chain {name}_chains[] = {chains};
static const int16_t {name}_mantissas[] = {{
{mantissas}}};
static const int8_t {name}_exps[] = {{
{exps}}};

static ppn_place {name}_places[{stage_count}];
static ppn_network {name}_net = {{{network}}};
static uint32_t {name}_weights[{weights}], {name}_scratch[{scratch}], {name}_tape[{tape}];

/* Ready for {name}(): 0, or a ppn_status. */
static int {name}_open(void) {{
    ppn_sizes sizes;
    ppn_share all = {{0, 1}};
    int status = ppn_plan(&{name}_net, 0, &sizes);
    if (status) return status;
    ppn_load(&{name}_net, (uint8_t *){name}_weights, (uint8_t *){name}_scratch, {name}_mantissas, {name}_exps, all);
    return PPN_OK;
}}

/* |x| = significand * 2^exponent with 53 bits, exactly; of 0 and what is too small to matter, 0. */
static uint64_t {name}_split(double x, int *exponent) {{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int biased = (int)(bits >> 52) & 0x7FF;
    *exponent = biased - 1075;
    return biased ? (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52 : 0;
}}

/* The nearest mantissa of 16 bits at an exponent, ties away from zero. */
static int16_t {name}_mantissa(double x, int block_exponent) {{
    int exponent;
    uint64_t size = {name}_split(x, &exponent);
    int shift = block_exponent - exponent; /* at least 38, since the largest of the block has 53 - 38 bits */
    uint64_t m = shift > 62 ? 0 : (size + (UINT64_C(1) << (shift - 1))) >> shift;
    if (m > 32767) m = 32767;
    return (int16_t)(x < 0 ? -(int32_t)m : (int32_t)m);
}}

/* Up to four points as a row of blocks, each with one exponent (docs/spec.md, section 2.1). */
static void {name}_encode(uint32_t count, const double (*x)[{inputs}], int16_t *mantissas, int8_t *exps) {{
    memset(mantissas, 0, {blocks} * 16 * sizeof *mantissas);
    for (int b = 0; b < {blocks}; b++) {{
        int top = -1075, any = 0;
        for (uint32_t r = 0; r < count; r++)
            for (int c = 4 * b; c < 4 * b + 4 && c < {inputs}; c++) {{
                int exponent;
                if ({name}_split(x[r][c], &exponent) && exponent > top) top = exponent;
            }}
        int exponent = top + 38; /* 15 bits of the largest remain */
        if (exponent < -127) exponent = -127;
        for (uint32_t r = 0; r < count; r++)
            for (int c = 4 * b; c < 4 * b + 4 && c < {inputs}; c++) {{
                int16_t m = {name}_mantissa(x[r][c], exponent);
                mantissas[16 * b + 4 * (int)r + c % 4] = m;
                any |= m;
            }}
        exps[b] = (int8_t)(any ? exponent : PPN_ZERO_EXP);
    }}
}}

/* m * 2^exponent. */
static double {name}_real(int32_t m, int exponent) {{
    double power;
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    memcpy(&power, &bits, 8);
    return m * power;
}}

{constraint}/* u at |count| points, finite and below 2^127. */
static void {name}(uint32_t count, const double (*x)[{inputs}], double *u) {{
    int16_t mantissas[{blocks} * 16], out_exp;
    int8_t exps[{blocks}];
    int32_t out[16];
    ppn_batch batch = {{1, 0, 16, mantissas, exps, NULL, NULL, (uint8_t *){name}_tape, 0}};
    for (uint32_t done = 0; done < count; done += 4) {{
        uint32_t some = count - done < 4 ? count - done : 4;
        {name}_encode(some, x + done, mantissas, exps);
        ppn_forward(&{name}_net, (uint8_t *){name}_weights, (uint8_t *){name}_scratch, &batch, out, &out_exp);
        for (uint32_t r = 0; r < some; r++) u[done + r] = {value};
    }}
}}

#endif
"""

_CONSTRAINT = """\
/* The problem's hard constraint, at a point as the network has it: offset + factor N. */
static double {name}_constrained(const int16_t *mantissas, const int8_t *exps, uint32_t row, double network) {{
    double x[{inputs}];
    for (uint32_t c = 0; c < {inputs}; c++) x[c] = {name}_real(mantissas[c / 4 * 16 + 4 * row + c % 4], exps[c / 4]);
    return {offset} + {factor} * network;
}}

"""

_MAIN = """\
/* {title}
 *
 *   cc -std=c11 -O2 -Ikernels_c/include {file}.c kernels_c/src/?*.c{library} -o {name}
 *   ./{name}              compares u at {checked} points with what picopinn had when it exported
 *   ./{name} {example}      u there
 *
 * On a bare processor it compares only: main() answers how many values differ, and leaves them in |u|.
 */
#include "{file}.h"

static const double x[{checked}][{upper}_INPUTS] = {{
{points}}};
static const double expected[{checked}] = {{
{values}}};
double u[{checked}];

/* How many values differ{by}; -1: the network is none. */
static int check(void) {{
    int differ = 0;
    if ({name}_open()) return -1;
    {name}({checked}, x, u);
    for (int k = 0; k < {checked}; k++) differ += {differs};
    return differ;
}}

#if __STDC_HOSTED__
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words) {{
    double at[1][{upper}_INPUTS];
    int differ = check();
    if (count == 1 || differ) {{
        printf("%d of {checked} values differ from those exported\\n", differ);
        return differ != 0;
    }}
    if (count != 1 + {upper}_INPUTS) {{
        fprintf(stderr, "give the {inputs} coordinates of a point\\n");
        return 2;
    }}
    for (int k = 0; k < {upper}_INPUTS; k++) at[0][k] = strtod(words[1 + k], NULL);
    {name}(1, at, u);
    printf("%.17g\\n", u[0]);
    return 0;
}}
#else
int main(void) {{ return check(); }}
#endif
"""


def write(trained: Trained, stem: str) -> dict[str, bytes]:
    """``.h`` and ``.c`` by suffix, for files named ``stem``.

    Raises:
        UsageError: the run computes in floats.
    """
    require_integers(trained, "C")
    fields = _fields(trained, stem)
    return {".h": _HEADER.format(**fields).encode(), ".c": _MAIN.format(**fields).encode()}


def require_integers(trained: Trained, what: str) -> None:
    """UsageError for a run in floats."""
    if not trained.integers:
        raise UsageError(
            f"{what} computes in integers and this run in {FLOAT}: export it as .tflite or .npz, or train one with "
            f"--precision {WIDTHS}"
        )


def _fields(trained: Trained, stem: str) -> dict[str, Any]:
    program, weights = trained.program, trained.parameters
    plan = Plan(program, 0)
    regions = {name: -(-getattr(plan.sizes, name) // 4) for name in ("weights", "scratch", "tape")}
    name = re.sub(r"\W", "_", trained.name)
    x = calibration_points(trained.problem)[-_CHECKED:]
    u = trained.solver.predict(x)
    bits = program.precision
    network = [f"{name}_stages", f"{name}_chains", f"{name}_places", len(program.stages), len(program.chains)]
    network += [ACTIVATIONS.index(program.activation), MODES.index(program.mode)]
    network += [bits.weights, bits.activations, bits.base, bits.gradients]
    return {
        **(_free(name) if trained.formulas is None else _constrained(name, program.inputs, trained.formulas)),
        "title": trained.title,
        "name": name,
        "upper": name.upper(),
        "guard": f"{name.upper()}_H",
        "file": stem,
        "numbers": NUMBERS,
        "inputs": program.inputs,
        "blocks": plan.sizes.in_blocks,
        "stage_count": len(program.stages),
        "stages": _braces(_stage(stage) for stage in program.stages),
        "chains": _braces([_chain(chain) for chain in program.chains] or ["{0}"]),
        "network": ", ".join(map(str, network)),
        "mantissas": _wrapped(weights.mantissas.ravel().tolist()),
        "exps": _wrapped(weights.exponents.tolist()),
        "memory": 4 * sum(regions.values()),
        "constants": weights.mantissas.nbytes + weights.exponents.nbytes,
        "checked": _CHECKED,
        "points": _lines(_braces(float(value).hex() for value in point) for point in x),
        "values": _lines(float(value).hex() for value in u),
        "example": " ".join(["0.5"] * program.inputs),
        **regions,
    }


def _free(name: str) -> dict[str, str]:
    """What a header and its main say of a problem without a hard constraint."""
    return {
        "bits": "The values have the bits of picopinn's Solver.predict for the same points",
        "headers": "#include <string.h>\n",
        "library": "",
        "constraint": "",
        "value": f"{name}_real(out[4 * r], out_exp)",
        "by": "",
        "differs": "u[k] != expected[k]",
    }


def _constrained(name: str, inputs: int, constraint: Formulas) -> dict[str, str]:
    """The same with one. Its functions are those of another library than NumPy's, and sums go another way."""
    offset, factor = constraint.offset.text(), constraint.factor.text()
    functions = re.search(r"[a-z]{2}\(", offset + factor)
    return {
        "bits": "The network's values have the bits of picopinn's, before the problem's hard constraint",
        "headers": "#include <math.h>\n#include <string.h>\n" if functions else "#include <string.h>\n",
        "library": " -lm" if functions else "",
        "constraint": _CONSTRAINT.format(name=name, inputs=inputs, offset=offset, factor=factor),
        "value": f"{name}_constrained(mantissas, exps, r, {name}_real(out[4 * r], out_exp))",
        "by": " by more than rounding",
        "differs": f"!(u[k] - expected[k] < {_ROUNDING} && expected[k] - u[k] < {_ROUNDING})",
    }


def _stage(stage: Stage) -> str:
    chain = -1 if stage.chain is None else stage.chain
    return _braces((stage.rows, stage.cols, stage.panels, int(stage.expand), int(stage.closes), chain))


def _chain(chain: Chain) -> str:
    return _braces((len(chain.modes), _braces(chain.modes), _braces(chain.ranks)))


def _braces(items: Iterable[object]) -> str:
    return "{" + ", ".join(map(str, items)) + "}"


def _lines(items: Iterable[str]) -> str:
    return "".join(f"    {item},\n" for item in items)


def _wrapped(numbers: Iterable[int]) -> str:
    """Numbers with commas, in lines of bounded length."""
    lines, line = [], ""
    for number in numbers:
        if len(line) > _COLUMNS - 8:
            lines.append(line)
            line = ""
        line += f"{number}, "
    return "".join(f"    {text.rstrip()}\n" for text in (*lines, line) if text)
