/* Open-loop HTTP/1.1 load at rates that Python does not reach: requests leave on a clock whatever the answers do.
 *
 *   open_loop PORT RATE SECONDS REQUESTS
 *
 * REQUESTS holds raw requests, each after its length as four little-endian bytes; they are sent in turn over as many
 * keep-alive connections to 127.0.0.1 as it takes. Latency counts from the planned moment. Prints one JSON object with
 * the names of `Seen` in open_loop.py; latencies are integers, microseconds, sorted, thinned to at most 10,000.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/* CONNECTING: more at once overflow the queue of a listening socket, and TCP then waits for seconds */
enum { MOST = 4000, CONNECTING = 64, BUFFER = 32768, EVENTS = 256, GRACE_US = 10000000, SHOWN = 10000 };

typedef struct {
  int fd, busy, connected;
  int64_t planned; /* of the request in flight, microseconds */
  const char *out; /* what is still to be written */
  size_t out_left, in;
  char buffer[BUFFER];
} Connection;

typedef struct {
  uint32_t *values;
  size_t count, room;
} Latencies;

static Connection *all[MOST], *idle[MOST];
static int opened, connecting, idles, poller, port;
static char **requests;
static uint32_t *lengths, number;
static int64_t *waiting; /* planned moments of requests that no connection was free for, first in first out */
static size_t wait_head, wait_tail;
static uint64_t statuses[1000], planned, unanswered, in_time, turn;
static Latencies accepted, rejected;
static int sending = 1;

static int64_t now_us(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void add(Latencies *to, int64_t took) {
  if (to->count == to->room) {
    to->room = to->room ? to->room * 2 : 1 << 16;
    to->values = realloc(to->values, to->room * sizeof *to->values);
    if (!to->values) abort();
  }
  to->values[to->count++] = took < 0 ? 0 : (uint32_t)took;
}

static void watch(Connection *c, int writes) {
  struct epoll_event event = {.events = EPOLLIN | (writes ? EPOLLOUT : 0u), .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void lost(Connection *c) {
  if (c->busy) unanswered++;
  if (!c->connected) connecting--;
  for (int i = 0; i < idles; i++)
    if (idle[i] == c) { idle[i] = idle[--idles]; break; }
  close(c->fd);
  c->fd = -1;
  for (int i = 0; i < opened; i++)
    if (all[i] == c) { all[i] = all[--opened]; break; }
  free(c);
}

/* 0 when the connection is gone */
static int flush(Connection *c) {
  while (c->out_left) {
    ssize_t wrote = write(c->fd, c->out, c->out_left);
    if (wrote < 0) {
      if (errno == EAGAIN) { watch(c, 1); return 1; }
      lost(c);
      return 0;
    }
    c->out += wrote;
    c->out_left -= (size_t)wrote;
  }
  return 1;
}

static int start(Connection *c, int64_t when) {
  uint32_t which = (uint32_t)(turn++ % number);
  c->busy = 1;
  c->planned = when;
  c->in = 0;
  c->out = requests[which];
  c->out_left = lengths[which];
  return flush(c);
}

static void next(Connection *c) {
  if (wait_head < wait_tail) start(c, waiting[wait_head++]);
  else idle[idles++] = c;
}

static void open_one(void) {
  Connection *c = calloc(1, sizeof *c);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
  int one = 1;
  if (!c) abort();
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) { free(c); return; }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
    close(c->fd);
    free(c);
    return;
  }
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
  all[opened++] = c;
  connecting++;
}

/* requests wait in line for whichever connection is free first; a new one is opened only for those that none expects */
static void open_some(void) {
  while (wait_tail - wait_head > (size_t)connecting && connecting < CONNECTING && opened < MOST) {
    int before = opened;
    open_one();
    if (opened == before) break;
  }
}

static void ask(int64_t when) {
  if (idles) start(idle[--idles], when);
  else waiting[wait_tail++] = when;
}

/* the answer in the buffer: its length when it is whole, else 0 */
static size_t whole(Connection *c, int *status, int *closes) {
  char *end = memmem(c->buffer, c->in, "\r\n\r\n", 4);
  size_t body = 0;
  if (!end) return 0;
  *status = c->in > 12 ? atoi(c->buffer + 9) : 0;
  *closes = 0;
  for (char *line = c->buffer; line < end; line++) {
    line = memchr(line, '\n', (size_t)(end - line));
    if (!line) break;
    if (!strncasecmp(line + 1, "content-length:", 15)) body = strtoul(line + 16, NULL, 10);
    else if (!strncasecmp(line + 1, "connection: close", 17)) *closes = 1;
  }
  size_t total = (size_t)(end - c->buffer) + 4 + body;
  return c->in >= total ? total : 0;
}

static void readable(Connection *c) {
  int status = 0, closes = 0;
  ssize_t got = read(c->fd, c->buffer + c->in, BUFFER - 1 - c->in);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) { lost(c); return; }
  c->in += (size_t)got;
  c->buffer[c->in] = 0;
  if (!whole(c, &status, &closes)) return;
  if (!c->busy) { lost(c); return; }
  int good = status >= 200 && status < 300;
  add(good ? &accepted : &rejected, now_us() - c->planned);
  in_time += (uint64_t)(good && sending);
  if (status >= 0 && status < 1000) statuses[status]++;
  c->busy = 0;
  c->in = 0;
  if (closes) lost(c);
  else next(c);
}

static void turn_once(int timeout_ms) {
  struct epoll_event events[EVENTS];
  int got = epoll_wait(poller, events, EVENTS, timeout_ms);
  for (int i = 0; i < got; i++) {
    Connection *c = events[i].data.ptr;
    if (events[i].events & EPOLLERR) { lost(c); continue; }
    if (events[i].events & EPOLLOUT) {
      watch(c, 0);
      if (!c->connected) {
        c->connected = 1;
        connecting--;
        next(c);
        continue; /* it may be gone by now; what else it has to say comes again */
      }
      if (!flush(c)) continue;
    }
    if (events[i].events & (EPOLLIN | EPOLLHUP)) readable(c);
  }
  open_some();
}

static size_t in_flight(void) {
  size_t busy = wait_tail - wait_head;
  for (int i = 0; i < opened; i++) busy += (size_t)all[i]->busy;
  return busy;
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static void show(const char *name, Latencies *of) {
  size_t shown = of->count < SHOWN ? of->count : SHOWN;
  if (of->count) qsort(of->values, of->count, sizeof *of->values, ascending);
  printf("\"%s_count\": %zu, \"%s\": [", name, of->count, name);
  for (size_t i = 0; i < shown; i++)
    printf("%s%u", i ? ", " : "", of->values[shown == 1 ? 0 : i * (of->count - 1) / (shown - 1)]);
  printf("], ");
}

static void read_requests(const char *path) {
  FILE *file = fopen(path, "rb");
  unsigned char head[4];
  if (!file) { perror(path); exit(2); }
  while (fread(head, 1, 4, file) == 4) {
    uint32_t length = head[0] | head[1] << 8 | head[2] << 16 | (uint32_t)head[3] << 24;
    requests = realloc(requests, (number + 1) * sizeof *requests);
    lengths = realloc(lengths, (number + 1) * sizeof *lengths);
    if (!requests || !lengths || !(requests[number] = malloc(length))) abort();
    if (fread(requests[number], 1, length, file) != length) exit(2);
    lengths[number++] = length;
  }
  fclose(file);
  if (!number) exit(2);
}

int main(int argc, char **argv) {
  if (argc != 5) { fprintf(stderr, "usage: open_loop PORT RATE SECONDS REQUESTS\n"); return 2; }
  double rate = atof(argv[2]), seconds = atof(argv[3]);
  int64_t late = 0, began, now, until;
  int first = 1;
  port = atoi(argv[1]);
  read_requests(argv[4]);
  waiting = malloc(((size_t)(rate * seconds) + 2) * sizeof *waiting);
  poller = epoll_create1(0);
  if (!waiting || poller < 0) return 2;
  began = now_us();
  while ((now = now_us()) < began + (int64_t)(seconds * 1e6)) {
    uint64_t due = (uint64_t)((double)(now - began) * rate / 1e6);
    for (; planned < due; planned++) {
      int64_t when = began + (int64_t)((double)planned / rate * 1e6);
      if (now - when > late) late = now - when;
      ask(when);
    }
    turn_once(rate < 5000 ? 1 : 0);
  }
  sending = 0;
  now = now_us();
  until = now + GRACE_US;
  while (in_flight() && now_us() < until) turn_once(10);
  unanswered += in_flight();
  printf("{\"planned\": %lu, \"seconds\": %f, \"late_s\": %f, \"in_time\": %lu, \"unanswered\": %lu, ", planned,
         (double)(now - began) / 1e6, (double)late / 1e6, in_time, unanswered);
  show("accepted", &accepted);
  show("rejected", &rejected);
  printf("\"statuses\": {");
  for (int i = 0; i < 1000; i++)
    if (statuses[i]) { printf("%s\"%d\": %lu", first ? "" : ", ", i, statuses[i]); first = 0; }
  printf("}}\n");
  return 0;
}
