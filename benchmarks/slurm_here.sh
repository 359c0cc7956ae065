#!/bin/bash
# Two nodes of SLURM on this machine, and the script of docs/scaling.md on them in its CPU form.
#
#     apt-get install slurm-wlm munge && bash benchmarks/slurm_here.sh FOLDER
#
# Needs root. Nodes are two slurmd of one machine, with names that lead here; FOLDER keeps their state, logs and the run.
# The job is told to stop (SIGTERM, as a time limit or a preemption does) once it has trained for some iterations, and has
# to requeue itself, resume and come to its end.
set -e
mkdir -p "$1"/{state,spool,log}
cd "$1"
HERE=$PWD
export SLURM_CONF=$HERE/slurm.conf
cat > slurm.conf <<CONF
ClusterName=here
SlurmctldHost=$(hostname)
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$HERE/state
SlurmdSpoolDir=$HERE/spool/%n
SlurmctldPidFile=$HERE/ctld.pid
SlurmdPidFile=$HERE/%n.pid
SlurmctldLogFile=$HERE/log/ctld.log
SlurmdLogFile=$HERE/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=here[0-1] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[17011-17012] CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
grep -q ' here0' /etc/hosts || echo '127.0.0.1 here0 here1' >> /etc/hosts
pgrep -x munged > /dev/null || { mkdir -p /run/munge && chown munge /run/munge && su -s /bin/bash munge -c /usr/sbin/munged; }
slurmctld
for node in here0 here1; do slurmd -N $node; done
trap 'kill $(cat ctld.pid here0.pid here1.pid)' EXIT
sleep 3
sinfo

# What stands in the docs, with fewer nodes, no GPUs, and a task of a minute.
sed -n '/^#!\/bin\/bash/,/^```/p' "$OLDPWD/docs/scaling.md" | grep -v '^```' | sed \
  -e 's/--nodes=4/--nodes=2/; s/ --gpus-per-node=8 --cpus-per-task=64//; s/--nproc-per-node 8/--nproc-per-node 1/' \
  -e "s|train HalfCheetah-v5 --run /shared/cheetah|train CartPole-v1 --run $HERE/run --steps 1e5 --environments 8 --rollout-length 64|" > job.sh
cat job.sh
JOB=$(sbatch --parsable job.sh)
rows() { cat run/metrics.jsonl 2> /dev/null | wc -l; }
until [ "$(rows)" -gt 10 ]; do sleep 1; done
scancel --batch --signal=TERM "$JOB"
echo "told to stop after $(rows) iterations"
until [ -f run/results.json ]; do sleep 1; done
scontrol show job "$JOB" | grep -E 'JobState|Restarts'
cat "slurm-$JOB.out"
