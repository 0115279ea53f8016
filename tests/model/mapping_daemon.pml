/* SPDX-License-Identifier: GPL-2.0-or-later */
/* mapping.pml's daemon: the worker that maps and puts back, the fault thread, recovery. */

inline wake() {
  d_step {
    if
    :: asleep != AWAKE -> asleep = AWAKE
    :: else
    fi
  }
}
inline release() {
  d_step {
    set_owner(OWN_idle);
    if
#ifndef NO_WAKE
    :: contended -> contended = 0; asleep = AWAKE
#endif
    :: else
    fi
  }
}

/* Sends a command and waits for the answer. */
inline ask_agent(act) {
  d_step { answer = 0; queue_act = act; queue_by = generation };
  d_step { answer != 0 -> answer = 0 }
}
inline gate() {
#if defined(NO_GATE) || PINS == 0
  quiet = 1
#else
  quiet = !pinned
#endif
}

inline share() {
  /* REQUIRES: owner is mapping */
  if
  :: discard && tag == TAG_none -> /* PageTable::clear_discard */
    if
    :: discarding -> skip
    :: !discarding -> discard = 0;
      if
      :: discarding -> discard = 1
      :: !discarding
      fi
    fi
  :: else
  fi;
  if
  :: pool || discard || (tag != TAG_none && tag != TAG_observed && tag != TAG_clean) -> skip
  :: else ->
#ifdef NO_READ_UNDER_GUARD
    quiet = (ram_value == SAME && resident);
#endif
#ifndef NO_GUARD
    d_step {
      if
      :: resident && !pool -> guard = 1
      :: else
      fi
    };
#endif
#ifndef NO_READ_UNDER_GUARD
    gate();
    quiet = quiet && resident && ram_value == SAME;
#endif
    if
    :: quiet ->
      d_step { slot = 1; slot_value = SAME };
#ifndef NO_WORD_FIRST
      d_step { set_tag(TAG_mapped, OWN_mapping) };
#endif
      ask_agent(MAP);
#ifdef NO_AGENT_PUNCH
      if
      :: pool -> punch()
      :: !pool
      fi;
#endif
#ifdef NO_WORD_FIRST
      d_step {
        if
        :: pool -> tag = TAG_mapped
        :: else
        fi
      };
#endif
      if
      :: pool -> skip
      :: !pool -> /* refused, or discarded since */
        d_step {
          if
          :: tag == TAG_mapped -> set_tag(TAG_none, OWN_mapping)
          :: else
          fi
        };
        guard = 0;
        free_slot()
      fi
    :: !quiet || tag == TAG_clean -> /* held, or another page's; or there is no slot */
#ifndef NO_CLEAN_GUARD
      if
      :: tag != TAG_clean -> guard = 0
      :: tag == TAG_clean
      fi
#else
      guard = 0
#endif
    fi;
#ifndef NO_WAKE
    wake()
#endif
  fi;
  release()
}

inline restore() {
  /* REQUIRES: owner is restoring */
  if
  :: tag != TAG_mapped -> skip
  :: tag == TAG_mapped ->
#ifndef NO_RESTORE_GUARD
    guard = 1;
#endif
    gate();
    if
    :: quiet ->
#ifdef NO_RELEASE_LAST
      free_slot();
#endif
      ask_agent(RESTORE)
    :: !quiet
    fi;
    if
#ifdef NO_MAPS /* the agent has answered */
    :: quiet ->
#else
    :: pool -> guard = 0 /* it stays mapped */
    :: !pool ->
#endif
      d_step { set_tag(TAG_none, OWN_restoring) };
      guard = 0;
      free_slot()
    fi;
    wake()
  fi;
  release()
}

proctype worker() {
  byte n;
  bit quiet;
  do
  :: n == TURNS -> break
  :: n < TURNS && up && known ->
    n++;
    if
    :: d_step { owner == OWN_idle -> set_owner(OWN_mapping) }; share()
    :: d_step { owner == OWN_idle -> set_owner(OWN_restoring) }; restore()
    fi;
    quiet = 0
  od
}

/* A fault thread. An event on a page with another owner is dropped: the owner wakes. */
proctype handler() {
end:
  do
  :: d_step { up && asleep == QUEUED -> asleep = TAKEN };
#ifndef NO_FENCED_FAULTS
    if
    :: tag == TAG_mapped && !known -> goto dropped /* recovery wakes it again */
    :: else
    fi;
#endif
    if
    :: d_step { owner == OWN_idle -> set_owner(OWN_filling) };
      if
#ifdef NO_FENCED_FAULTS
      :: true -> guard = 0
#else
      :: tag != TAG_mapped ->
        if
        :: d_step { tag == TAG_clean -> set_tag(TAG_none, OWN_filling) }
        :: tag != TAG_clean
        fi;
        guard = 0
      :: tag == TAG_mapped /* nothing is guarded there any more */
#endif
      fi;
      wake();
      release()
    :: d_step { owner != OWN_idle -> contended = 1 }
    fi;
dropped:
    skip
  od
}

/* Start and recovery. The new daemon's generation is in `session` before it serves a fault. */
proctype main() {
end:
  do
  :: d_step { boot -> boot = 0 };
    session = generation;
    up = 1;
#ifndef NO_RECOVERY_WAKE
    wake();
#endif
#ifndef NO_FENCE
    fence = generation;
    fenced == generation;
#endif
    /* As the page's owner. The address range is looked up for pages whose words say `mapped`. */
    d_step { owner == OWN_idle -> set_owner(OWN_restoring) };
    if
    :: tag == TAG_mapped ->
      if
#ifdef NO_T2 /* T1 first: what the RAM file holds is the truth */
      :: !resident && pool
#else
      :: pool
#endif
        -> guard = 0 /* of a restore that its daemon left */
      :: else ->
        d_step { set_tag(TAG_none, OWN_restoring) };
        guard = 0
      fi
    :: else
    fi;
    d_step {
      if
      :: tag != TAG_mapped && slot -> slot = 0; slot_value = JUNK
      :: else
      fi
    };
    release();
    known = 1;
#ifndef NO_RECOVERY_WAKE
    wake()
#endif
  od
}
