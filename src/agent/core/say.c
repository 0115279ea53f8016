/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/say.h"

#include "agent/core/host.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

void rf_say(enum rf_cause cause, const char *format, ...) {
  static _Atomic unsigned said;
  const unsigned bit = 1u << (unsigned)cause;
  if ((atomic_fetch_or(&said, bit) & bit) != 0) return;

  char line[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  if (length > (int)sizeof line - 2) length = (int)sizeof line - 2;
  line[length] = '\n';
  rf_host.say(line, (size_t)length + 1);
}
