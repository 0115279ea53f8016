/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints its arguments and environment and ends with 7: what `ramfold exec` is tried on. */
#include <stdio.h>
#include <string.h>

extern char **environ;

int main(int argc, char **argv) {
  for (int i = 1; i < argc; ++i) printf("arg %d <%s>\n", i, argv[i]);
  for (char **entry = environ; *entry != NULL; ++entry) {
    const char *equals = strchr(*entry, '=');
    if (equals != NULL) printf("%.*s <%s>\n", (int)(equals - *entry), *entry, equals + 1);
  }
  return 7;
}
