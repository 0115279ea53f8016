/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU's process does: guest threads read and write, and QEMU discards. */
#define MAY_READ(p, v) ((allowed[p] & (1 << (v))) != 0 || (racing[p] && (v) == 0))

/* One try of the access that thread `me` is about to make: it sleeps, or has happened and `ops`
 * goes down. */
inline access(me) {
  if
  :: resident[p] && !writes ->
    assert(MAY_READ(p, value[p]));
    allowed[p] = 1 << value[p];
    trying = 0
  :: resident[p] && writes && !guard[p] ->
    value[p] = me + 1;
    allowed[p] = 1 << value[p];
    raced[p] = racing[p];
    trying = 0
  :: !resident[p] && marker[p] -> trying = 0 /* SIGBUS: told, not lied to */
  :: else ->
    asleep[me] = QUEUED;
    ev_page[me] = p;
    ev_kind[me] = (resident[p] -> WP : MISSING);
    ev_write[me] = writes;
#ifdef ONE_EVENT
    assert(!faulted);
    faulted = 1;
#endif
  fi;
  if
  :: !trying -> p = 0; writes = 0; ops--
  :: else
  fi
}

proctype guest(byte me) {
  byte ops = OPS;
  byte p;
  bit writes;
  bit trying;
#ifdef ONE_EVENT
  bit faulted;
#endif

  do
  :: atomic {
      !trying && ops > 0 ->
      trying = 1;
#ifdef ONE_EVENT
      faulted = 0;
#endif
      if
      :: p = 0
#if PAGES > 1
      :: p = 1
#endif
      fi;
      if
      :: writes = 0
      :: writes = 1
      fi;
      d_step { access(me) }
    }
  :: d_step { trying && asleep[me] == AWAKE -> access(me) }
  :: !trying -> break
  od
}

/* QEMU discards a page; the agent stands before it (wire.h). */

#if DISCARDS > 0
/* rf_gate_await_fills: no fill may be on its way that looked at the bit before it was set. One of a
 * dead daemon has ended: its connection has, or the next daemon made the word even. */
inline await(thread) {
  d_step { awaited[thread] = in_fill[thread] };
  !awaited[thread]
}

proctype agent() {
  byte p;
  bit mine;
  bit failed;

end:
  do
  :: discards_left > 0 ->
    atomic {
      discards_left--;
      if
      :: p = 0
#if PAGES > 1
      :: p = 1
#endif
      fi;
      discards_active++;
      racing[p] = 1;
      raced[p] = 0
    };
#ifndef NO_T5_ORDER
    d_step { mine = !discard[p]; discard[p] = 1 };
#endif
    if
    :: true ->
#ifndef NO_WAIT_FOR_FILLS
      await(HANDLER0);
#if HANDLERS > 1
      await(HANDLER0 + 1);
#endif
#if UNFOLDS > 0
      await(UNFOLDER);
#endif
#endif
      d_step {
        resident[p] = 0; guard[p] = 0; value[p] = 0; marker[p] = 0
      }
#ifdef MAY_FAIL
    :: failed = 1 /* the call, or the wait took too long */
#endif
    fi;
#ifdef NO_T5_ORDER
    d_step { discard[p] = 1 };
#endif
#ifdef MAY_FAIL
    if
#ifdef NO_OWN_BITS_ONLY
    :: d_step { failed -> discard[p] = 0 }
#else
    :: d_step { failed && mine -> discard[p] = 0 }
    :: failed && !mine
#endif
    :: !failed
    fi;
#endif
    d_step {
      discards_active--;
      racing[p] = 0;
      allowed[p] = (raced[p] || failed -> allowed[p] | 1 : 1);
      raced[p] = 0;
      p = 0; mine = 0; failed = 0
    }
  od
}
#endif
