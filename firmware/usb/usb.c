/* usb.c: MicroPython's module |ppn_usb|, in images that `invoke build` makes: its USB port as a fast binary stream.
 *
 * MicroPython's own console takes every byte by itself, through a ring of its own, and looks after the USB stack in
 * between: about a thousand cycles a byte on an RP2040. Here bytes come straight from TinyUSB, as many as there are.
 * A board with another MicroPython does without (firmware/ppn/start.py).
 */
#include "py/mphal.h"
#include "py/ringbuf.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "shared/tinyusb/mp_usbd.h"

#define PATIENCE 500 /* milliseconds for a host to take anything, then the rest is dropped, as the console does */

/* Whether the console's ring is made to look full: then it takes no bytes, and they stay with TinyUSB. Both are only
 * touched between two runs of the USB stack, which is not run by interrupts. */
static bool diverted;

static mp_uint_t from_ring(uint8_t *to, mp_uint_t size) {
    mp_uint_t n = 0;
    for (int c; n < size && (c = ringbuf_get(&stdin_ringbuf)) >= 0; n++) to[n] = (uint8_t)c;
    return n;
}

static void divert(void) {
    stdin_ringbuf.iput = (uint16_t)((stdin_ringbuf.iget + stdin_ringbuf.size - 1) % stdin_ringbuf.size);
    diverted = true;
}

static mp_uint_t usb_read(mp_obj_t self, void *buffer, mp_uint_t size, int *error) {
    (void)self;
    (void)error;
    if (size == 0) return 0;
    for (;;) {
        mp_uint_t n = diverted ? 0 : from_ring(buffer, size);
        if (n == 0) {
            divert(); /* all that came before has been read */
            n = tud_cdc_read(buffer, size);
        }
        if (n) return n;
        mp_usbd_task();
        if (!tud_cdc_available()) mp_event_wait_indefinite();
    }
}

static mp_uint_t usb_write(mp_obj_t self, const void *buffer, mp_uint_t size, int *error) {
    (void)self;
    (void)error;
    const uint8_t *from = buffer, *end = from + size;
    mp_uint_t moved = mp_hal_ticks_ms();
    while (from < end && mp_hal_ticks_ms() - moved < PATIENCE) {
        uint32_t n = tud_cdc_write(from, (uint32_t)(end - from));
        tud_cdc_write_flush();
        from += n;
        if (n) moved = mp_hal_ticks_ms();
        if (from < end) {
            mp_event_wait_ms(1);
            mp_usbd_task();
        }
    }
    return size;
}

/* restore(): give the port back to the console. */
static mp_obj_t restore(void) {
    if (diverted) stdin_ringbuf.iget = stdin_ringbuf.iput = 0;
    diverted = false;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(restore_obj, restore);

static const mp_stream_p_t protocol = {.read = usb_read, .write = usb_write};
static MP_DEFINE_CONST_OBJ_TYPE(stream_type, MP_QSTR_stream, MP_TYPE_FLAG_NONE, protocol, &protocol);
static const mp_obj_base_t stream_obj = {&stream_type};

static const mp_rom_map_elem_t globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_ppn_usb)},
    {MP_ROM_QSTR(MP_QSTR_stream), MP_ROM_PTR(&stream_obj)},
    {MP_ROM_QSTR(MP_QSTR_restore), MP_ROM_PTR(&restore_obj)},
};
static MP_DEFINE_CONST_DICT(globals, globals_table);

const mp_obj_module_t ppn_usb = {.base = {&mp_type_module}, .globals = (mp_obj_dict_t *)&globals};
MP_REGISTER_MODULE(MP_QSTR_ppn_usb, ppn_usb);
