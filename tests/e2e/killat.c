/* Runs a command and kills it with SIGKILL before its n-th system call that changes something, counted over all of its threads:
 *
 *     killat COUNT-FILE N COMMAND ARGUMENT...
 *
 * N = 0 only counts. The number of calls that began is written to COUNT-FILE. Ends as the command does; 137 when it was killed.
 *
 * strace's `inject=…:when=N` counts for each thread and each system call by itself, so that with several threads no N stands for some of the moments. Here a seccomp
 * filter stops the calls that count, and only those; the others run at full speed. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int counted[] = {
    SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_ftruncate, SYS_fallocate, SYS_copy_file_range, SYS_sendfile,
    SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_syncfs, SYS_openat, SYS_openat2,
    SYS_linkat, SYS_unlinkat, SYS_mkdirat, SYS_symlinkat, SYS_mknodat, SYS_renameat2, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_utimensat,
    SYS_setxattr, SYS_fsetxattr,
#ifdef SYS_rename
    SYS_rename, SYS_link, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_symlink, SYS_open, SYS_chmod, SYS_chown,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
};

static void child(char **command) {
    enum { n = sizeof counted / sizeof *counted };
    struct sock_filter f[n + 3];
    int i = 0;
    f[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int k = 0; k < n; k++)
        f[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, counted[k], n - k, 0);
    f[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    f[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    struct sock_fprog program = {.len = i, .filter = f};
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) || raise(SIGSTOP) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("killat");
        _exit(125);
    }
    execv(command[0], command);
    perror(command[0]);
    _exit(127);
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    long at = atol(argv[2]), count = 0;
    int status, code = -1, begun = 0;
    pid_t leader = fork();
    if (leader < 0) return 125;
    if (leader == 0) child(argv + 3);
    if (waitpid(leader, &status, 0) != leader || !WIFSTOPPED(status)) return 125;
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, leader, 0, options) || ptrace(PTRACE_CONT, leader, 0, 0)) return 125;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == leader) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int event = status >> 16, sig = WSTOPSIG(status);
        if (event == PTRACE_EVENT_EXEC) begun = 1;
        if (event == PTRACE_EVENT_SECCOMP && begun && ++count == at) kill(leader, SIGKILL);
        /* Stops of the tracer's own making pass no signal on; a new thread begins with SIGSTOP. */
        if (event || sig == SIGTRAP || sig == SIGSTOP) sig = 0;
        ptrace(PTRACE_CONT, pid, 0, (void *)(long)sig);
    }
    FILE *out = fopen(argv[1], "w");
    if (!out || fprintf(out, "%ld\n", count) < 0 || fclose(out)) return 125;
    return code < 0 ? 125 : code;
}
