#!/bin/bash
# Record what Slurm says about jobs that end in every way the development cluster can make.
# Usage: record.sh NEW_STATE_DIRECTORY. Writes sacct.txt and squeue.txt beside this script; ~2 minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
devcluster=$here/../../../slurm/devcluster
eval "$("$devcluster/up" --state "$1")"
trap '"$devcluster/down" --state "$1" --remove' EXIT
cd "$1"
sub() { name=$1; shift; sbatch --parsable --job-name "$name" --mem=50 -o /dev/null -t 1 "$@"; }

sub time-limit -w c3 --wrap 'srun sleep 200' >/dev/null
for code in 0 1 65 69 70 75; do sub "exit-$code" --wrap "srun sh -c 'exit $code'" >/dev/null; done
sub killed --wrap 'srun sh -c "kill -9 \$\$"' >/dev/null
sub memory --wrap 'srun python3 -c "x = bytearray(400 << 20)
import time
time.sleep(30)"' >/dev/null
sleep 12
sub cancelled -w c3 --wrap 'srun sleep 100' >/tmp/j$$; sleep 2; scancel "$(cat /tmp/j$$)"
requeued=$(sub requeued --requeue -w c3 --wrap 'srun sleep 4'); sleep 2; scontrol requeue "$requeued"
sub gone --no-requeue -w c4 --wrap 'srun sleep 100' >/dev/null; sleep 2
"$devcluster/node" kill c4 --state "$1"
sub preempted -p low --no-requeue -w c1 -c 4 --wrap 'trap "" TERM; sleep 100' >/dev/null; sleep 2
sub preemptor -p high -w c1 -c 4 --wrap 'true' >/dev/null
waiting=$(sub waiting --array=0-40:2%3 -w c2 -c 4 --wrap 'sleep 100'); sleep 3
SLURM_BITSTR_LEN=0 squeue -h -r -o '%F|%K|%j|%T|%N|%r' >"$here/squeue.txt"
scancel "${waiting}_4"
sub element --array=0-3 -w c3 --wrap 'sleep $((SLURM_ARRAY_TASK_ID == 2 ? 0 : 100))' >/tmp/j$$
sleep 2; scancel "$(cat /tmp/j$$)_1"; rm /tmp/j$$
sleep 75
scancel --name waiting; sleep 3
SLURM_BITSTR_LEN=0 sacct -n -P -D -S now-1hour \
  -o JobID,JobName,State,ExitCode,DerivedExitCode,Start,End,ElapsedRaw,NodeList,Reason \
  >"$here/sacct.txt"
