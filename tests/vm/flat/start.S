/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Multiboot (version 1) header and entry of the flat guest. The loader leaves us in 32-bit
   protected mode, without paging, with EAX = the loader's magic and EBX = its information. */
    .section .multiboot, "ax"
    .set kFlags, 0x2                      /* tell us how much memory there is */
    .balign 4
    .long 0x1BADB002, kFlags, -(0x1BADB002 + kFlags)

    .text
    .global flat_start
flat_start:
    cli
    cld
    movl $flat_stack_top, %esp
    pushl %ebx
    pushl %eax
    call flat_main
1:  hlt
    jmp 1b

    .bss
    .balign 16
    .space 16384
flat_stack_top:
    .section .note.GNU-stack, "", @progbits
