/* adam.h: the optimizer's step on the host. */
#ifndef PICOPINN_ADAM_H
#define PICOPINN_ADAM_H

#include <stdint.h>

/* What Adam's step depends on beside the gradient: how much of it the running means take up, and, bias corrected, the
 * learning rate and the root of the mean square's own correction. */
typedef struct {
    double keep_mean, take_mean, keep_square, take_square, rate, root, epsilon;
} picopinn_adam_step;

/* mean = keep mean + take g; square likewise with g^2; master -= rate mean / (sqrt(square) / root + epsilon). */
void picopinn_adam(uint32_t size, const double *gradient, const picopinn_adam_step *step, double *mean, double *square,
                   double *master);

#endif
