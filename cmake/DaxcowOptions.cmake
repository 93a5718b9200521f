# How everything is compiled: the interface targets daxcow_options and, without sanitizers, daxcow_plain_options.

option(DAXCOW_WERROR "Warnings are errors" OFF)
set(DAXCOW_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (address,undefined or thread)")
option(DAXCOW_FUSE_REMAP "Have the kernel pass on FICLONE, by the extension proposed in docs/kernel-ficlone.md" OFF)
option(DAXCOW_FUZZ "Build the targets of libFuzzer (clang only)" OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
# Assertions of the filesystem are CHECK, which stays on in every build; assert() is left to the libraries.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")  # -g1: enough for backtraces, and half the build time

find_program(DAXCOW_CCACHE ccache)
if(DAXCOW_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${DAXCOW_CCACHE})
endif()

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS ON)  # TRY (engine/result.h) is a statement expression

configure_file(${CMAKE_CURRENT_LIST_DIR}/version.h.in ${CMAKE_BINARY_DIR}/generated/version.h @ONLY)

add_library(daxcow_plain_options INTERFACE)
target_compile_features(daxcow_plain_options INTERFACE cxx_std_23)
target_include_directories(daxcow_plain_options INTERFACE ${PROJECT_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_definitions(daxcow_plain_options INTERFACE _FILE_OFFSET_BITS=64 _GNU_SOURCE)
target_compile_options(daxcow_plain_options INTERFACE
  -Wall -Wextra -Wnon-virtual-dtor -Woverloaded-virtual -Wvla -Wformat=2 -Wcast-qual
  $<$<BOOL:${DAXCOW_WERROR}>:-Werror>
  # GCC 12 reports std::string's own copying as overlapping (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety -Werror=thread-safety>)
target_link_options(daxcow_plain_options INTERFACE -Wl,--as-needed)

# With what the build was asked to watch for.
add_library(daxcow_options INTERFACE)
target_link_libraries(daxcow_options INTERFACE daxcow_plain_options)

if(DAXCOW_FUZZ)
  # Edges only: the mutators know which values matter, and watching every comparison would halve the speed.
  target_compile_options(daxcow_options INTERFACE -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp,trace-div,trace-gep)
endif()

if(DAXCOW_SANITIZE)
  target_compile_options(daxcow_options INTERFACE
    -fsanitize=${DAXCOW_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
    # Instrumented code gives GCC's flow analysis false alarms; the release build has none of them switched off.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-tsan>)
  target_link_options(daxcow_options INTERFACE -fsanitize=${DAXCOW_SANITIZE})
  add_library(daxcow_sanitizer_defaults OBJECT ${CMAKE_CURRENT_LIST_DIR}/sanitizer_defaults.cc)
  target_sources(daxcow_options INTERFACE
    # into programs only: libraries would bring it twice
    $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:$<TARGET_OBJECTS:daxcow_sanitizer_defaults>>)
endif()
