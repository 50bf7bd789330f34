mod support;
use support::lab::*;
#[test]
fn plain() {
    let c = Ns::new("client"); let s = Ns::new("server");
    link((&c, "vc", "10.1.0.1/24"), (&s, "vs", "10.1.0.2/24"));
    let cap = Capture::start(&s, "vs");
    assert_eq!(udp(&c, &s, "10.1.0.2:4739".parse().unwrap(), 50, 1400), 50);
    assert_eq!(tcp(&c, &s, "10.1.0.2:8080".parse().unwrap(), 3, 20), 60);
    let f = cap.stop(50, |f| f[23] == 17);
    println!("{} frames, bad {}", f.frames.len(), f.bad_checksums().len());
    println!("{} {}", s.checksum_errors(), c.checksum_errors());
}
