/* usb.c: MicroPython's module |ppn_usb|, in images that `invoke build` makes: its USB port as a fast binary stream.
 *
 * MicroPython's own console takes every byte by itself, through a ring of its own, and looks after the USB stack in
 * between: about a thousand cycles a byte on an RP2040. Here bytes come straight from TinyUSB, as many as there are.
 * And while the port is ours, TinyUSB is run by an interrupt: packets come and go, as far as its buffers reach, while
 * the board computes. A board with another MicroPython does without (firmware/ppn/start.py).
 */
#include "hardware/irq.h"
#include "py/mphal.h"
#include "py/ringbuf.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "shared/tinyusb/mp_usbd.h"

#define PACKET 64    /* bytes, of full-speed USB */
#define PATIENCE 500 /* milliseconds for a host to take anything, then the rest is dropped, as the console does */

/* Whether the console's ring is made to look full: then it takes no bytes, and they stay with TinyUSB. */
static bool diverted;

/* ---- TinyUSB in an interrupt ----------------------------------------------------------------------------------- */

/* TinyUSB is not to be entered twice. What calls it holds it, then the interrupt leaves it alone, and is asked for once
 * more behind. micropython.cmake has every call of tud_task_ext() pass here. */
static volatile uint32_t holders;
static int line = -1; /* a spare interrupt, below that of USB */

extern void __real_tud_task_ext(uint32_t timeout_ms, bool in_isr);
extern bool __real_usbd_edpt_xfer(uint8_t port, uint8_t endpoint, uint8_t *buffer, uint16_t size);

static void hold(void) {
    holders++;
    __compiler_memory_barrier();
}

static void let_go(void) {
    __compiler_memory_barrier();
    holders--;
    if (diverted && tud_task_event_ready()) irq_set_pending((uint)line);
}

void __wrap_tud_task_ext(uint32_t timeout_ms, bool in_isr) {
    hold();
    __real_tud_task_ext(timeout_ms, in_isr);
    let_go();
}

/* TinyUSB, which has something to do, calls this within its own interrupt. */
void tud_event_hook_cb(uint8_t rhport, uint32_t event, bool in_isr) {
    (void)rhport;
    (void)event;
    (void)in_isr;
    if (diverted) irq_set_pending((uint)line);
}

static void aside(void) {
    if (!holders) __real_tud_task_ext(0, true);
}

static void open_line(void) {
    if (line >= 0) return;
    line = (int)user_irq_claim_unused(true);
    irq_set_exclusive_handler((uint)line, aside);
    irq_set_priority((uint)line, PICO_LOWEST_IRQ_PRIORITY);
    irq_set_enabled((uint)line, true);
}

/* Several packets in one transfer cost the board less. One that is not full ends a transfer; a console's host need not
 * send such, ours does (picopinn/link/session.py). */
bool __wrap_usbd_edpt_xfer(uint8_t port, uint8_t endpoint, uint8_t *buffer, uint16_t size) {
    if (endpoint == USBD_CDC_EP_OUT && !diverted) size = PACKET;
    return __real_usbd_edpt_xfer(port, endpoint, buffer, size);
}

/* ---- the stream ------------------------------------------------------------------------------------------------ */

static mp_uint_t from_ring(uint8_t *to, mp_uint_t size) {
    mp_uint_t n = 0;
    for (int c; n < size && (c = ringbuf_get(&stdin_ringbuf)) >= 0; n++) to[n] = (uint8_t)c;
    return n;
}

static void divert(void) {
    if (diverted) return;
    open_line();
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
            hold();
            divert(); /* all that came before has been read */
            n = tud_cdc_read(buffer, size);
            let_go();
        }
        if (n) return n;
        while (!tud_cdc_available()) mp_event_wait_indefinite(); /* a read's own lock is an event, too: wait again */
    }
}

static mp_uint_t usb_write(mp_obj_t self, const void *buffer, mp_uint_t size, int *error) {
    (void)self;
    (void)error;
    const uint8_t *from = buffer, *end = from + size;
    mp_uint_t moved = mp_hal_ticks_ms();
    while (from < end && mp_hal_ticks_ms() - moved < PATIENCE) {
        hold();
        uint32_t n = tud_cdc_write(from, (uint32_t)(end - from));
        tud_cdc_write_flush();
        let_go();
        from += n;
        if (n) moved = mp_hal_ticks_ms();
        if (from < end) mp_event_wait_ms(1);
    }
    return size;
}

/* restore(): give the port back to the console. */
static mp_obj_t restore(void) {
    hold();
    if (diverted) stdin_ringbuf.iget = stdin_ringbuf.iput = 0;
    diverted = false;
    let_go();
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
