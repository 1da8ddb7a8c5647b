/* crew.h: the kernels' calls dealt to threads. Integer sums make the results the same for any number of them. */
#ifndef PICOPINN_CREW_H
#define PICOPINN_CREW_H

#include "host.h"

/* Threads that wait for work beside the caller's own. */
typedef struct picopinn_crew picopinn_crew;

/* A crew of |size| threads in all, the caller's being one; NULL where the system gives no more threads. */
picopinn_crew *picopinn_crew_open(uint32_t size);
void picopinn_crew_close(picopinn_crew *crew);

/* What each thread has to itself, and what all share. |merged| is a gradient region, too. */
typedef struct {
    uint8_t *scratch, *gradients;
} picopinn_lane;
typedef struct {
    picopinn_crew *crew;
    const ppn_kernels *kernels;
    const ppn_network *net;
    ppn_sizes sizes;
    uint8_t *weights, *merged;
    const picopinn_lane *lanes; /* as many as the crew has threads */
} picopinn_device;

/* Microbatches of a batch without tapes of their own that a thread works on together. */
enum { PICOPINN_TOGETHER = 20 };

/* The functions of ppn.h that they are named after, run by all threads; they answer flags. A batch is dealt in equal
 * runs of microbatches; where it has no tape for each (tape_step 0), there must be PICOPINN_TOGETHER for each thread.
 */
int picopinn_load(const picopinn_device *device, const int16_t *mantissas, const int8_t *exps);
int picopinn_forward(const picopinn_device *device, const ppn_batch *batch, int32_t *out, int16_t *out_exps);
void picopinn_begin(const picopinn_device *device, const int16_t *exps, uint8_t limit);
int picopinn_backward(const picopinn_device *device, const ppn_batch *batch, const int16_t *cotangents,
                      const int8_t *cotangent_exps, ppn_counter counter);
int picopinn_gradients(const picopinn_device *device, int16_t *mantissas, int8_t *exps, uint32_t *peaks);

/* ppn_matmul() of a packed right side. */
int picopinn_times_packed(picopinn_crew *crew, const ppn_kernels *kernels, const ppn_matrix *a, const ppn_factor *b,
                          int32_t *out, int16_t *out_exps);

#endif
