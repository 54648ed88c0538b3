package metrics

import "time"

// HostStats are those of the machine, or of the container where its limits are lower. What a system does not tell is 0.
type HostStats struct {
	Load1          float64       `metric:"load1,gauge,Load average of 1 min"`
	Load5          float64       `metric:"load5,gauge,Load average of 5 min"`
	Load15         float64       `metric:"load15,gauge,Load average of 15 min"`
	CPUBusySeconds float64       `metric:"cpu_busy_seconds_total,counter,CPU time that was not idle, all cores"`
	CPUs           int           `metric:"cpus,gauge,Cores of the machine"`
	CPULimit       float64       `metric:"cpu_limit,gauge,Cores the cgroup may use; the machine's without a limit"`
	Throttled      time.Duration `metric:"cpu_throttled_seconds_total,counter,Time the cgroup was held back"`
	MemoryTotal    uint64        `metric:"memory_bytes,gauge,Memory of the machine, or the cgroup's limit"`
	MemoryFree     uint64        `metric:"memory_available_bytes,gauge,Memory that can be had without swapping"`
	DiskTotal      uint64        `metric:"disk_bytes,gauge,Size of the file system of the working directory"`
	DiskFree       uint64        `metric:"disk_free_bytes,gauge,Free space there for this user"`
	DiskRead       uint64        `metric:"disk_read_bytes_total,counter,Bytes read from all disks"`
	DiskWritten    uint64        `metric:"disk_written_bytes_total,counter,Bytes written to all disks"`
	DiskBusy       time.Duration `metric:"disk_busy_seconds_total,counter,Time that disks had something to do, summed"`
	NetReceived    uint64        `metric:"network_received_bytes_total,counter,Bytes received, loopback excluded"`
	NetSent        uint64        `metric:"network_sent_bytes_total,counter,Bytes sent, loopback excluded"`
	NetErrors      uint64        `metric:"network_errors_total,counter,Packets that were lost or broken on their way through an interface, loopback excluded"`
	OpenFiles      int           `metric:"open_files,gauge,File descriptors of this process"`
	FilesLimit     uint64        `metric:"open_files_limit,gauge,File descriptors this process may have"`
	PressureCPU    time.Duration `metric:"pressure_cpu_seconds_total,counter,Time some task waited for a core (PSI)"`
	PressureIO     time.Duration `metric:"pressure_io_seconds_total,counter,Time some task waited for I/O (PSI)"`
	PressureMemory time.Duration `metric:"pressure_memory_seconds_total,counter,Time some task waited for memory (PSI)"`
}

// Host reads the machine's figures; the series host_* are the same. It is safe for concurrent use.
func Host() HostStats { return readHost() }
