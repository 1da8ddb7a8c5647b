# usb.c as a part of MicroPython.
add_library(usermod_ppn_usb INTERFACE)
target_sources(usermod_ppn_usb INTERFACE ${CMAKE_CURRENT_LIST_DIR}/usb.c)
target_link_libraries(usermod INTERFACE usermod_ppn_usb)
