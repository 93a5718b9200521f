// main() of the test programs.
#define CATCH_CONFIG_RUNNER  // Catch2 version 2 puts its implementation here
#include "test/catch.h"

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
