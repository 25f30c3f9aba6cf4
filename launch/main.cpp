#include "launch/cli.h"

int main(int argc, char** argv) {
  return thinwire::run_command_line(argc, argv);
}
