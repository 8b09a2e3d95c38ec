//! Memory of the process itself.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the kernel's control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What version 1 tells where there is no limit: the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// How much memory of the machine the process has.
#[derive(Debug)]
pub struct Resident {
    statm: File,
}

impl Resident {
    /// Opens what the kernel tells.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn open() -> io::Result<Self> {
        Ok(Self { statm: File::open("/proc/self/statm")? })
    }

    /// Returns the octets that are resident now; some 2 us.
    ///
    /// # Errors
    /// The errno of the read, or that it is no number.
    pub fn bytes(&self) -> io::Result<u64> {
        let mut text = [0; 128];
        let length = self.statm.read_at(&mut text, 0)?;
        let text = str::from_utf8(text.get(..length).unwrap_or_default()).unwrap_or_default();
        let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let pages = pages.ok_or_else(|| io::Error::other("statm has another form"))?;
        Ok(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

/// Returns the least limit of memory of the control groups that the process is in, of version 2 or 1; `None`: there is none.
pub fn limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_below(Path::new(CGROUPS), &groups)
}

/// Reads the limits of the group that `groups` (`/proc/<pid>/cgroup`) names and of those above it. In a container the path may
/// be that of the host, which is not there: then the container's own group is the root of what is mounted.
fn limit_below(mount: &Path, groups: &str) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => (mount.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(root.join(group).join(file)).unwrap_or_default();
            let limit = text.trim().parse::<u64>().ok().filter(|limit| *limit < NO_LIMIT);
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// Gives back to the kernel what the allocator keeps of what was freed; some milliseconds for each 100 MiB. Where the C
/// library is not glibc it does nothing.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no precondition; it takes the locks of the allocator and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives the pages of the program's text and constants back: what only the start needed is not resident any more, what is needed is
/// mapped again from the page cache when it is next executed (a minor fault each, without I/O as long as it is cached).
/// Returns how many octets of text the process has.
///
/// # Errors
/// When `/proc/self/maps` cannot be read, or the errno of `madvise`.
pub fn give_back_text() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, end) in maps.lines().filter_map(text_range) {
        // SAFETY: the range is a private and never written mapping of a file (`r-xp`, or `r--p` from its first octet on, with
        // a path), so the kernel reads the same octets again on the next access; relocations live in other mappings.
        let rc = unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += end - start;
    }
    Ok(bytes)
}

/// Reads a line of `maps`: the range of program text that comes from a file.
fn text_range(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, flags) = (words.next()?, words.next()?);
    let (offset, path) = (words.next()?, words.nth(2)?);
    // What begins the file is its constants; what is read only behind the text was written when the program was loaded.
    let is_never_written = flags == "r-xp" || (flags == "r--p" && offset.bytes().all(|digit| digit == b'0'));
    if !is_never_written || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Resident, give_back_text, limit_below, text_range};
    use std::fs;

    #[test]
    fn the_least_limit_of_the_groups_on_the_way_counts_in_both_versions() {
        let mount = std::env::temp_dir().join(format!("weir-limit-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = mount.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("a/b/memory.max", "max\n");
        put("a/memory.max", "2000\n");
        put("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/memory.limit_in_bytes", "3000\n");
        let limit = |groups: &str| limit_below(&mount, groups);
        assert_eq!(limit("0::/a/b\n"), Some(2000));
        assert_eq!(limit("4:cpu,memory:/x\n1:name=systemd:/x\n"), Some(3000));
        assert_eq!(limit("4:memory:/docker/0123\n"), Some(3000), "the path of the host");
        assert_eq!(limit("4:memory:/x\n0::/a/b\n"), Some(2000));
        assert_eq!((limit("1:cpu:/a\n"), limit(""), limit("0::/none\n")), (None, None, None));
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn what_is_written_to_is_resident() {
        let resident = Resident::open().unwrap();
        let before = resident.bytes().unwrap();
        let held = std::hint::black_box(vec![1u8; 256 << 20]);
        // Other tests give back memory meanwhile, the text of the program among it.
        assert!(resident.bytes().unwrap() > before + (100 << 20));
        drop(held);
    }

    #[test]
    fn only_text_from_files_is_given_back() {
        let text = "55c0a000-55c0b000 r-xp 00010000 fe:00 1234                       /usr/bin/weir";
        assert_eq!(text_range(text), Some((0x55c0_a000, 0x55c0_b000)));
        let constants = "55c00000-55c0a000 r--p 00000000 fe:00 1234                       /usr/bin/weir";
        assert_eq!(text_range(constants), Some((0x55c0_0000, 0x55c0_a000)));
        for other in [
            "55c0a000-55c0b000 r--p 00010000 fe:00 1234 /usr/bin/weir",
            "55c0a000-55c0b000 rw-p 00000000 fe:00 1234 /usr/bin/weir",
            "55c0a000-55c0b000 rw-p 00010000 fe:00 1234 /usr/bin/weir",
            "7fff0000-7fff2000 r-xp 00000000 00:00 0 [vdso]",
            "7fff0000-7fff2000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(text_range(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_runs_on() {
        assert!(give_back_text().unwrap() > 4096);
        assert_eq!((1..=10).sum::<u32>(), 55);
    }
}
