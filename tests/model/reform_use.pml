/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Contents::get, put and drop: those who use contents while they move. */
/* Readers::Section around Contents::get, or put's comparison. The bytes are looked at once, as late
 * as may be: what was freed meanwhile is junk by then. */
inline get(c, expected, set, cw, cr, crw) {
#ifdef NO_COUNT_IN_FIRST
  cw = where[c];
  set = turn;
  inside[set]++;
#else
  set = turn;
  inside[set]++;
  cw = where[c];
#endif
  if
  :: READABLE(cw) && REFERS(cw) ->
    cr = reference[c];
    crw = where[cr];
    /* With a mark on one of the two it is told as damaged. */
    assert(BAD(crw) || BAD(where[c]) ||
           (READABLE(crw) && !REFERS(crw) && page[SLOT(crw)] == base[SLOT(cw)] &&
            base[SLOT(crw)] == JUNK && page[SLOT(cw)] == expected))
  :: READABLE(cw) && !REFERS(cw) ->
    assert(base[SLOT(cw)] == JUNK && page[SLOT(cw)] == expected)
  :: else -> assert(BAD(cw))
  fi;
  assert(!marked[c] || BAD(where[c]));
  d_step { inside[set]--; set = 0; cr = NONE; crw = 0 }
}

#ifdef NO_PUT_AFTER_RECOVERY
#define MAY_PUT true
#else
#define MAY_PUT (phase == READY)
#endif
#if WORDS > 2
#define ANY_UNOWNED (!owned[0] || !owned[1] || !owned[2])
#else
#define ANY_UNOWNED (!owned[0] || !owned[1])
#endif

/* Fault threads and folders: who owns a guest's page reads what it names and may give that up, or
 * lets it name something. */
proctype worker() {
  byte p, x, v, w, r, rw, s;
  bit t, drops;

end:
  do
  :: atomic {
      ops_left > 0 && ANY_UNOWNED ->
      if
      :: !owned[0] -> p = 0
      :: !owned[1] -> p = 1
#if WORDS > 2
      :: !owned[2] -> p = 2
#endif
      fi;
      ops_left--;
      busy++;
      owned[p] = 1;
      x = word[p]
    };
    if
    :: x != NONE ->
      get(x, truth[p], t, w, r, rw);
#ifdef MARKS
      /* Contents::condemn: it looked damaged to this reader. */
      if
      :: d_step {
          READABLE(w) ->
          if
          :: where[x] == w -> where[x] = w | 32; marked[x] = 1; leaks = 1
          :: else
          fi
        }
      :: true
      fi;
#endif
      w = 0;
      if
      :: owned[p] = 0; x = NONE
      :: d_step {
          word[p] = NONE; truth[p] = 0; drops = counted[p]; owned[p] = 0;
#ifdef NO_CURSOR
          drops = 1;
#endif
          if
          :: !drops -> x = NONE
          :: else
          fi;
          drops = 0
        };
        if
        :: x != NONE -> drop(x, w, r)
        :: else
        fi
      fi
    :: x == NONE && !MAY_PUT -> owned[p] = 0
    :: x == NONE && MAY_PUT ->
      if
      :: v = 1
      :: v = 2
#if VALUES > 2
      :: v = 3
#endif
      fi;
      d_step { /* Index::find */
        x = 1;
        do
        :: x <= IDS && !(LIVE(x) && READABLE(where[x]) && hash[x] == v) -> x++
        :: else -> break
        od;
        if
        :: x <= IDS -> count[x]++
        :: else -> x = NONE
        fi
      };
      if
      :: x != NONE -> get(x, v, t, w, r, rw); w = 0
      :: else ->
        allocate_slot(s);
        if
        :: s < SLOTS ->
          d_step { /* HeaderTable::allocate */
            x = 1;
            do
            :: x <= IDS && !id_free[x] -> x++
            :: else -> break
            od;
            if
            :: x <= IDS -> id_free[x] = 0
            :: else -> x = NONE; used[s] = 0
            fi
          }
        :: else
        fi;
        if
        :: x != NONE ->
          d_step { page[s] = v; base[s] = JUNK };
          d_step { hash[x] = v; count[x] = 1; dependents[x] = 0 };
          where[x] = WHERE(s, 0)
        :: else
        fi
      fi;
      d_step {
        if
        :: x != NONE -> word[p] = x; truth[p] = v; counted[p] = 1
        :: else
        fi;
        owned[p] = 0; x = NONE; v = 0; s = 0
      }
    fi;
    p = 0;
    rest()
  od
}
