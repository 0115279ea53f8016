/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The reformer: store/reform/reformer.cpp and switch.cpp, and the wait of store/readers.hpp. */
/* HeaderTable::take_live */
#define MAY_TAKE(y) (LIVE(y) && (y) != x)

inline take(c) {
  if
  :: MAY_TAKE(1) -> c = 1
  :: MAY_TAKE(2) -> c = 2
#if IDS > 2
  :: MAY_TAKE(3) -> c = 3
#endif
  :: else -> c = NONE
  fi
}

/* Readers::wait */
inline wait_for_readers() {
#ifndef NO_WAIT
  d_step { t = turn; turn = !turn };
  inside[t] == 0;
#ifndef NO_SECOND_TURN
  d_step { t = turn; turn = !turn };
  inside[t] == 0;
#endif
#endif
  t = 0
}

/* A step of the reformer, which visits every content once, ends with nothing left behind. */
inline forget_seen() {
  d_step {
    if
    :: left_count == 0 ->
      seen[1] = 0; seen[2] = 0;
#if IDS > 2
      seen[3] = 0
#endif
    :: else
    fi
  }
}

#define MAY_VISIT(y) (LIVE(y) && !seen[y])
#if IDS > 2
#define ANY_TO_VISIT (MAY_VISIT(1) || MAY_VISIT(2) || MAY_VISIT(3))
#else
#define ANY_TO_VISIT (MAY_VISIT(1) || MAY_VISIT(2))
#endif

proctype reformer() {
  byte x, y, w, r, rr, s, v, now;
  bit t, gave;
  bit seen[IDS + 1];
  byte left_id[LEFT_MAX];
  byte left_slot[LEFT_MAX];
  byte left_reference[LEFT_MAX];

end:
  do
  :: atomic {
      phase == READY && switches_left > 0 && left_count < LEFT_MAX && ANY_TO_VISIT ->
      if
      :: MAY_VISIT(1) -> x = 1
      :: MAY_VISIT(2) -> x = 2
#if IDS > 2
      :: MAY_VISIT(3) -> x = 3
#endif
      fi;
      switches_left--;
      busy++;
#ifndef NO_TAKE
      count[x]++;
#endif
#ifndef NO_SETTLE_FIRST
      seen[x] = 1
#endif
    };
    w = where[x];
    if
    :: READABLE(w) ->
      d_step {
        v = hash[x];
        assert(page[SLOT(w)] == v && base[SLOT(w)] == (REFERS(w) -> hash[reference[x]] : JUNK))
      };
      /* Which form: alone, or with the reference that it has, or one that it has not. */
      if
      :: r = NONE
      :: REFERS(w) -> r = reference[x]
#ifdef NO_SAME_REFERENCE
      :: REFERS(w) || dependents[x] == 0 ->
#elif defined(NO_DEPENDENTS_CHECK)
      :: !REFERS(w) ->
#else
      :: !REFERS(w) && dependents[x] == 0 ->
#endif
        atomic {
          take(y);
          if
#ifndef NO_PIN
          :: y != NONE -> count[y]++
#endif
          :: else
          fi
        };
        if
        :: y != NONE && READABLE(where[y]) && !REFERS(where[y]) -> r = y; gave = 1
        :: else ->
#ifndef NO_PIN
          if
          :: y != NONE -> drop(y, rr, now)
          :: else
          fi
#endif
        fi;
        y = NONE
      fi;
      allocate_slot(s);
      if
      :: s < SLOTS ->
        now = WHERE(s, (r != NONE));
#ifdef NO_OLD_KEPT
        page[SLOT(w)] = JUNK;
#endif
#ifndef NO_BYTES_FIRST
        d_step { page[s] = v; base[s] = hash[r] };
#endif
        rr = (REFERS(w) -> reference[x] : NONE);
#ifndef NO_REFERENCE_FIRST
        if
        :: gave -> dependents[r]++; reference[x] = r
        :: else
        fi;
#endif
        d_step {
#ifdef NO_SWAP
          if
          :: true -> where[x] = now
#else
          if
          :: where[x] == w -> where[x] = now
#endif
          :: else -> now = 0
          fi
        };
#ifdef NO_REFERENCE_FIRST
        if
        :: gave -> dependents[r]++; reference[x] = r
        :: else
        fi;
#endif
#ifdef NO_BYTES_FIRST
        d_step { page[s] = v; base[s] = hash[r] };
#endif
        if
        :: now != 0 ->
#ifdef NO_PIN
          if
          :: gave -> count[r]++
          :: else
          fi;
#endif
          d_step {
            left_id[left_count] = x;
            left_slot[left_count] = SLOT(w);
            left_reference[left_count] = (rr != NONE && (r == NONE || gave) -> rr : NONE);
            left_count++;
            x = NONE;
            gave = 0
          }
        :: else ->
          if
          :: gave -> dependents[r]--
          :: else
          fi;
          free_slot(s)
        fi;
        d_step { now = 0; rr = NONE; s = 0 }
      :: else -> s = 0
      fi;
      if
#ifndef NO_PIN
      :: gave -> gave = 0; drop(r, rr, now)
#endif
      :: else -> r = NONE; gave = 0
      fi
    :: else
    fi;
    w = 0;
    v = 0;
#ifndef NO_TAKE
    if
    :: x != NONE -> drop(x, rr, now)
    :: else
    fi;
#else
    x = NONE;
#endif
    forget_seen();
    rest()

  :: d_step { left_count > 0 -> busy++ };
#ifdef NO_LATE_GIVE_UP
    d_step {
      x = left_reference[left_count - 1];
      left_reference[left_count - 1] = NONE
    };
    if
    :: x != NONE -> lower(x); release(x, rr, now)
    :: else
    fi;
#endif
    wait_for_readers();
    do
    :: left_count > 0 ->
      free_slot(left_slot[left_count - 1]);
      x = left_reference[left_count - 1];
      if
      :: x != NONE -> lower(x); release(x, rr, now)
      :: else
      fi;
      left_count--;
      d_step {
        x = left_id[left_count];
        left_id[left_count] = NONE;
        left_slot[left_count] = 0;
        left_reference[left_count] = NONE
      };
#ifndef NO_TAKE
      drop(x, rr, now)
#else
      x = NONE
#endif
    :: left_count == 0 -> break
    od;
    forget_seen();
    rest()
  od
}
