#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void)
{
    struct utsname here;

    if (uname(&here) != 0) {
        perror("uname");
        return 1;
    }
    printf("Hello from a sandbox: host %s, process %d, user %d.\n",
           here.nodename, (int) getpid(), (int) getuid());
    return 0;
}
