package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine is where and when was measured.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Disk   string `json:"disk"` // file system of the work folder
	Go     string `json:"go"`
	Date   string `json:"date"`
	Load   string `json:"load"` // at the start: others' work is the worst noise
}

// describeMachine asks the system; what it doesn't tell stays empty.
func describeMachine(work string) machine {
	return machine{
		CPU:    lineOf("/proc/cpuinfo", "model name"),
		Cores:  runtime.NumCPU(),
		Memory: lineOf("/proc/meminfo", "MemTotal"),
		Kernel: output("uname", "-sr"),
		Disk:   output("stat", "-f", "-c", "%T", work),
		Go:     runtime.Version(),
		Date:   time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		Load:   loadNow(),
	}
}

// lineOf is the value of the first line "key : value" of a file.
func lineOf(file, key string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadNow() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}

func output(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
