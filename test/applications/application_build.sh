build_does="builds a source tree inside the mount with make -j2, and runs what was built"
build_packages="g++ make cmake"
build_pool="512M 2G"

application_build() {
  if [[ $quick ]]; then
    build_small
  else
    build_engine
  fi
}

# A library and a program of many small files.
build_small() {
  local units=40
  mkdir small
  cd small
  awk -v units=$units 'BEGIN {
    for (i = 0; i < units; ++i) {
      file = "unit" i ".c"
      print "#include \"all.h\"\nint unit" i "(int x) { return x + " i (i ? " + unit" i - 1 "(x)" : "") "; }" > file
      print "int unit" i "(int x);" > "all.h"
      close(file)
      sum += i
    }
    print "#include <stdio.h>\n#include \"all.h\"\nint main(void) { printf(\"%d\\n\", unit" units - 1 "(0)); return 0; }" > "main.c"
    print sum > "expected"
  }'
  printf 'objects = $(patsubst %%.c,%%.o,$(wildcard unit*.c))\nmain: main.o libunits.a\n\tcc -o $@ $^\nlibunits.a: $(objects)\n\tar rcs $@ $^\n$(objects) main.o: all.h\nclean:\n\trm -f *.o *.a main\n' >Makefile
  make -s -j2
  ./main | cmp - expected
  make -s clean
  make -s -j2 CFLAGS=-O2
  [[ $(make -s -j2 -n | wc -l) == 0 ]] # times are such that nothing is left to do
  ./main | cmp - expected
  figure "$units units, twice"
}

# This project's engine and its tools.
build_engine() {
  mkdir daxcow
  tar -C "$source" --exclude=./build --exclude=./.git -cf - . | tar -C daxcow -xf -
  cmake -S daxcow -B out -G "Unix Makefiles" -DBUILD_TESTING=OFF -DCMAKE_CXX_COMPILER_LAUNCHER=
  make -C out -j2 -s daxcow mkfs.daxcow fsck.daxcow
  [[ $(make -C out -j2 -s -n mkfs.daxcow 2>/dev/null | grep -c 'c++') == 0 ]]
  out/bin/mkfs.daxcow -q --size 64M "$PWD/inner.pool"
  out/bin/fsck.daxcow "$PWD/inner.pool"
  figure "$(find out -name '*.o' | wc -l) objects, $(du -sm out | cut -f 1) MiB"
}
