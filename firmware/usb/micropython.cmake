# usb.c as a part of MicroPython. Its buffers let a board compute while as many bytes come and go.
add_library(usermod_ppn_usb INTERFACE)
target_sources(usermod_ppn_usb INTERFACE ${CMAKE_CURRENT_LIST_DIR}/usb.c)
target_compile_definitions(usermod_ppn_usb INTERFACE CFG_TUD_CDC_EP_BUFSIZE=256 CFG_TUD_CDC_RX_BUFSIZE=768
    CFG_TUD_CDC_TX_BUFSIZE=512)
target_link_options(usermod_ppn_usb INTERFACE -Wl,--wrap=tud_task_ext -Wl,--wrap=usbd_edpt_xfer)
target_link_libraries(usermod INTERFACE usermod_ppn_usb)
