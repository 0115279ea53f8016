/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The way down: src/fold/leaving_run.cpp and Folder::observe, for runs of one page. */
/* Contents: the same value is one content. A reference is held from here on. */
inline store_find(v, c, fresh) {
  c = 0;
  do
  :: c < CONTENTS && content_state[c] == LIVE && content[c] == v && refs[c] > 0 -> break
  :: c < CONTENTS && !(content_state[c] == LIVE && content[c] == v && refs[c] > 0) -> c++
  :: c == CONTENTS -> break
  od;
  if
  :: c < CONTENTS -> refs[c]++
  :: else ->
    fresh = 1;
    c = 0;
    do
    :: content_state[c] == FREE -> break
    :: else -> c++; assert(c < CONTENTS)
    od;
    content_state[c] = LIVE;
    content[c] = JUNK;
    refs[c] = 1
  fi
}

#ifdef NO_KEEPER_FIRST
#define MAY_FOLD known
#else
#define MAY_FOLD (known && kept)
#endif

/* What was not committed. Lifting is for an owner that no fault can interrupt: `punching`. */
inline undo(p) {
  if
  :: guarded ->
    commit(p);
    if
    :: won ->
      d_step { guard[p] = 0; wake(p); won = 0 };
#ifdef OBSERVES
      /* LeavingRun::keep_observed */
      if
      :: d_step { w == TAG_none -> advance(p, w, TAG_observed, 0, OWN_punching) }
      :: true
      fi;
#endif
      release(p)
    :: !won
    fi
  :: !guarded -> give_up(p)
  fi
}

inline give_up(p) {
  d_step {
    if
    :: owner[p] == OWN_folding -> set_owner(p, OWN_idle)
    :: else
    fi
  }
}

/* PageTable::commit */
inline commit(p) {
  d_step {
#if defined(NO_COMMIT) || defined(NO_OWNERSHIP)
    owner[p] = OWN_punching;
    won = 1
#else
    if
    :: owner[p] == OWN_folding -> set_owner(p, OWN_punching); won = 1
    :: else
    fi
#endif
  }
}

#ifdef NO_FOLD_BIT
#define STOPS_FOLD(p) false
#else
#define STOPS_FOLD(p) discard[p]
#endif

/* LeavingRun and Folder::observe, for a run of one page. */
proctype folder(byte n) {
  byte p, w, c, v;
  bit won, again, fresh, holds, left, guarded;

end:
  do
  :: atomic {
      up && folds_left[n] > 0 && MAY_FOLD && ANY_IDLE ->
      if
      :: IS_FREE(0) -> p = 0
#if PAGES > 1
      :: IS_FREE(1) -> p = 1
#endif
      fi;
      folds_left[n]--;
      d_step { set_owner(p, OWN_folding) } /* take_for_fold */
    };
    /* Looked up under ownership, which a fault may end at any time. */
    d_step { w = tag[p]; c = named[p]; left = (w == TAG_poisoned) };
#ifdef OBSERVES
    if
    :: w == TAG_none || w == TAG_clean ->
      commit(p);
      if
      :: won ->
        d_step {
          w = tag[p];
          c = named[p];
          if
          :: w == TAG_none -> advance(p, w, TAG_observed, 0, OWN_punching)
          :: w == TAG_clean -> advance(p, w, TAG_none, 0, OWN_punching); holds = 1
          :: else
          fi
        };
        won = 0;
        release(p)
      :: !won
      fi;
      goto next
    :: true
    fi;
#endif
#if DISCARDS > 0
    if
    :: discard[p] && w != TAG_folded -> clear_discard(p)
    :: !discard[p] || w == TAG_folded
    fi;
    left = left || STOPS_FOLD(p);
#endif
    if
    :: !left && !NAMES(w) ->
      guarded = 1;
      d_step { if :: resident[p] -> guard[p] = 1 :: else fi } /* WRITEPROTECT of the run */
    :: else
    fi;
    /* PAGEMAP_SCAN; a hole stays as it is. That a page is really guarded is a second line behind
     * T4: the rules of T4 are proved, and removed, without it. */
#ifdef NO_GUARD_CHECK
    left = left || !resident[p];
#else
    left = left || !resident[p] || !guard[p];
#endif
    if
    :: !left && !NAMES(w) ->
      d_step { v = value[p] }; /* pread; of a hole: zeros */
      d_step { store_find(v, c, fresh); holds = 1 };
#ifndef NO_BYTES_FIRST
      if
      :: fresh -> content[c] = v
      :: !fresh
      fi
#endif
    :: else /* known equal to its content: no bytes to read or to store */
    fi;
#if DISCARDS > 0
    left = left || STOPS_FOLD(p);
#endif
    if
    :: left -> undo(p)
    :: !left ->
      commit(p);
      if
      :: won ->
        d_step { advance(p, w, TAG_folded, c, OWN_punching); holds = 0 };
        d_step { resident[p] = 0; guard[p] = 0; value[p] = 0 }; /* PUNCH_HOLE */
#ifdef NO_BYTES_FIRST
        if
        :: fresh -> content[c] = v
        :: !fresh
        fi;
#endif
        release(p)
      :: !won
      fi
    fi;
next:
    if
    :: d_step { holds -> drop_ref(c); holds = 0 }
    :: !holds
    fi;
    d_step { p = 0; w = 0; c = 0; v = 0; won = 0; again = 0; fresh = 0; left = 0; guarded = 0 }
  od
}
