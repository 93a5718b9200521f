# bin/daxcow for everybody, the others in sbin. mount(8) looks for helpers in /sbin and /usr/sbin only, so a prefix such as
# /usr/local needs links there.

install(TARGETS daxcow RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS mkfs.daxcow fsck.daxcow mount.daxcow RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md ${PROJECT_SOURCE_DIR}/LICENSE
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(CODE "set(sbin \"${CMAKE_INSTALL_SBINDIR}\")")
install(CODE [[
  set(targets "${CMAKE_INSTALL_PREFIX}/${sbin}")
  if(CMAKE_INSTALL_PREFIX MATCHES "^/usr(/local)?/?$")
    set(links /sbin)
  else()
    set(links "${targets}")
    message(STATUS "For mount -t fuse.daxcow: link ${targets}/mount.daxcow as /sbin/mount.fuse.daxcow")
  endif()
  file(MAKE_DIRECTORY "$ENV{DESTDIR}${links}")
  foreach(tool mount fsck)
    set(link "$ENV{DESTDIR}${links}/${tool}.fuse.daxcow")
    message(STATUS "Linking: ${link} -> ${targets}/${tool}.daxcow")
    file(CREATE_LINK "${targets}/${tool}.daxcow" "${link}" SYMBOLIC)
  endforeach()
]])

# Units of systemd, with the paths of this installation. The mount unit is an example: its name and content are the
# administrator's.
set(units ${PROJECT_SOURCE_DIR}/fuse/systemd)
foreach(unit daxcow@.service daxcow-scrub@.service)
  configure_file(${units}/${unit}.in ${PROJECT_BINARY_DIR}/systemd/${unit} @ONLY)
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/systemd/daxcow@.service ${PROJECT_BINARY_DIR}/systemd/daxcow-scrub@.service
              ${units}/daxcow-scrub@.timer DESTINATION lib/systemd/system)
install(FILES ${units}/mnt-data.mount DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)

file(GLOB manual_5 CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/*.5)
file(GLOB manual_8 CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/*.8)
install(FILES ${manual_5} DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES ${manual_8} DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
