/* device.c: what a board does with a host's messages, so that the host knows what a board will answer. */
#define PPN_VARIANT portable
#include "names.h"

#include "../../firmware/natmod/device.c"
