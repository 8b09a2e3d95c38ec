//! Memory of the process itself.

use std::ffi::c_void;
use std::io;

/// Gives the pages of the program's text back: what only the start needed is not resident any more, what is needed is
/// mapped again from the page cache when it is next executed (a minor fault each, without I/O as long as it is cached).
/// Returns how many octets of text the process has.
///
/// # Errors
/// When `/proc/self/maps` cannot be read, or the errno of `madvise`.
pub fn give_back_text() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, end) in maps.lines().filter_map(text_range) {
        // SAFETY: the range is a private, executable and never written mapping of a file (`r-xp` with a path), so the
        // kernel reads the same octets again on the next access; relocations live in other mappings.
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
    let path = words.nth(3)?;
    if flags != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{give_back_text, text_range};

    #[test]
    fn only_text_from_files_is_given_back() {
        let text = "55c0a000-55c0b000 r-xp 00010000 fe:00 1234                       /usr/bin/weir";
        assert_eq!(text_range(text), Some((0x55c0_a000, 0x55c0_b000)));
        for other in [
            "55c0a000-55c0b000 r--p 00010000 fe:00 1234 /usr/bin/weir",
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
