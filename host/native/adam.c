/* adam.c: Adam (Kingma and Ba, ICLR 2015), each array read and written once. */
#include "adam.h"

#include <math.h>
#include <stddef.h>

/* Each operation rounds for itself, as the statements stand: compilers fuse within one at most. So every machine gives
 * the same bits. */
void picopinn_adam(uint32_t size, const double *restrict gradient, const picopinn_adam_step *step,
                   double *restrict mean, double *restrict square, double *restrict master) {
    const picopinn_adam_step s = *step;
    for (size_t k = 0; k < size; k++) {
        const double g = gradient[k], old_mean = s.keep_mean * mean[k], old_square = s.keep_square * square[k];
        const double new_mean = s.take_mean * g;
        const double power = g * g;
        const double new_square = s.take_square * power;
        mean[k] = old_mean + new_mean;
        square[k] = old_square + new_square;
        const double spread = sqrt(square[k]) / s.root;
        const double move = s.rate * mean[k];
        const double change = move / (spread + s.epsilon);
        master[k] -= change;
    }
}
