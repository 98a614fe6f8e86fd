;; The functions of WASI that Go's runtime imports, made of nothing but the plugin's own log. A plugin has no clock, no
;; randomness and no I/O: here a microsecond passes with each look at the clock, random bytes are always the same, and what Go
;; prints, such as the text of a panic, becomes lines of the log.
;;
;; The usual adapter, `wasi_snapshot_preview1.reactor.wasm`, does not suit a plugin. It asks the host for the time, and Go's
;; garbage collector looks at the clock even while the host passes parameters, when a component must not call the host.
(module
  (import "env" "memory" (memory 0))
  (import "wasmill:plugin/log@1.1.0" "write" (func $log (param i32 i32 i32 i32 i32 i32 i32)))

  (global $nanoseconds (mut i64) (i64.const 0))

  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $time i32) (result i32)
    (global.set $nanoseconds (i64.add (global.get $nanoseconds) (i64.const 1000)))
    (i64.store (local.get $time) (global.get $nanoseconds))
    (i32.const 0))

  ;; Ends a wait at once and puts the clock forward by it. Go waits for its timers only.
  (func (export "poll_oneoff") (param $wait i32) (param $event i32) (param $waits i32) (param $events i32) (result i32)
    (global.set $nanoseconds (i64.add (global.get $nanoseconds) (i64.load offset=24 (local.get $wait))))
    (memory.fill (local.get $event) (i32.const 0) (i32.const 32))
    (i64.store (local.get $event) (i64.load (local.get $wait)))
    (i32.store (local.get $events) (i32.const 1))
    (i32.const 0))

  (func (export "random_get") (param $bytes i32) (param $len i32) (result i32)
    (memory.fill (local.get $bytes) (i32.const 7) (local.get $len))
    (i32.const 0))

  ;; Go prints a line in pieces. They are gathered from address 4096 on: Go's linker leaves these 8 KiB to hosts in JavaScript.
  ;; A longer line is cut.
  (global $line (mut i32) (i32.const 0))

  (func (export "fd_write") (param $file i32) (param $piece i32) (param $pieces i32) (param $written i32) (result i32)
    (local $text i32) (local $len i32) (local $room i32) (local $last i32)
    (local.set $text (i32.load (local.get $piece)))
    (local.set $len (i32.load offset=4 (local.get $piece)))
    (i32.store (local.get $written) (local.get $len))
    (if (i32.eqz (local.get $len)) (then (return (i32.const 0))))
    (local.set $last (i32.load8_u (i32.sub (i32.add (local.get $text) (local.get $len)) (i32.const 1))))
    (local.set $room (i32.sub (i32.const 8192) (global.get $line)))
    (local.set $len (select (local.get $len) (local.get $room) (i32.lt_u (local.get $len) (local.get $room))))
    (memory.copy (i32.add (i32.const 4096) (global.get $line)) (local.get $text) (local.get $len))
    (global.set $line (i32.add (global.get $line) (local.get $len)))
    (if (i32.eq (local.get $last) (i32.const 10)) (then (call $end-line (local.get $file))))
    (i32.const 0))

  ;; Logs the line at level `error` (4) if it went to standard error, or else `info` (2), without target and fields.
  (func $end-line (param $file i32)
    (if (i32.gt_u (global.get $line) (i32.const 1)) (then
      (call $log (select (i32.const 4) (i32.const 2) (i32.eq (local.get $file) (i32.const 2)))
        (i32.const 0) (i32.const 0)
        (i32.const 4096) (i32.sub (global.get $line) (i32.const 1))
        (i32.const 0) (i32.const 0))))
    (global.set $line (i32.const 0)))

  ;; There are no arguments and no environment variables.
  (func $none (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (func $nothing (param i32 i32) (result i32) (i32.const 0))
  (export "args_sizes_get" (func $none))
  (export "args_get" (func $nothing))
  (export "environ_sizes_get" (func $none))
  (export "environ_get" (func $nothing))

  ;; There are no files: 8 is EBADF.
  (func $no-file (param i32 i32) (result i32) (i32.const 8))
  (export "fd_prestat_get" (func $no-file))
  (export "fd_fdstat_get" (func $no-file))
  (export "fd_fdstat_set_flags" (func $no-file))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_close") (param i32) (result i32) (i32.const 8))

  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param i32) unreachable))
