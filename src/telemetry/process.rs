//! What the kernel says about this process, for the usual `process_*` metrics. What cannot be read is left out.

use std::fs;

/// Figures of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system CPU time.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<f64>,
    /// Virtual memory.
    pub virtual_bytes: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// Their soft limit.
    pub max_fds: Option<f64>,
    /// Start, seconds since the Unix epoch.
    pub start_time_seconds: Option<f64>,
}

impl Process {
    /// Reads `/proc/self`.
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let mut process = read("/proc/self/stat")
            .map_or_else(Process::default, |stat| parse_stat(&stat, ticks, page));
        let boot = read("/proc/stat").and_then(|stat| {
            stat.lines()
                .find_map(|line| line.strip_prefix("btime "))
                .and_then(|time| time.trim().parse::<f64>().ok())
        });
        process.start_time_seconds = process
            .start_time_seconds
            .zip(boot)
            .map(|(start, boot)| start + boot);
        process.open_fds = fs::read_dir("/proc/self/fd")
            .ok()
            .map(|fds| fds.count() as f64);
        process.max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .map(|max| max as f64);
        process
    }
}

/// Fields of `/proc/<pid>/stat`; the start time is still relative to the boot.
fn parse_stat(stat: &str, ticks: f64, page: f64) -> Process {
    // The second field is the command's name in brackets and may itself hold spaces and brackets.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|field| field.trim().parse::<f64>().ok())
    };
    Process {
        cpu_seconds: field(14)
            .zip(field(15))
            .map(|(user, system)| (user + system) / ticks),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page),
        start_time_seconds: field(22).map(|start| start / ticks),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 95 0 0 0 150 50 0 0 20 0 4 0 1200 8192 3 18446744073709551615 1 1";
        let process = parse_stat(stat, 100.0, 4096.0);
        assert_eq!(process.cpu_seconds, Some(2.0));
        assert_eq!(process.virtual_bytes, Some(8192.0));
        assert_eq!(process.resident_bytes, Some(12288.0));
        assert_eq!(process.start_time_seconds, Some(12.0));
        assert_eq!(parse_stat("garbage", 100.0, 4096.0), Process::default());
    }

    #[test]
    fn this_process_can_be_read() {
        let process = Process::now();
        assert!(
            process.resident_bytes.is_some_and(|bytes| bytes > 1e5),
            "{process:?}"
        );
        assert!(
            process
                .start_time_seconds
                .is_some_and(|start| start > 1.5e9),
            "{process:?}"
        );
        assert!(
            process.open_fds.is_some_and(|fds| fds >= 3.0),
            "{process:?}"
        );
    }
}
