mod support;
use proptest::prelude::*;use proptest::strategy::ValueTree;
use support::*;
#[test]
fn gen_stats() {
    let mut runner = proptest::test_runner::TestRunner::default();
    let strat = arb::case(1..13usize);
    let t = std::time::Instant::now();
    let (mut n, mut hit, mut changed, mut drop, mut eligible, mut miss, mut fun, mut unf) = (0, 0, 0, 0, 0, 0, 0, 0);
    for _ in 0..300 {
        let c = strat.new_tree(&mut runner).unwrap().current();
        for p in &c.packets {
            // round trip of words
            if !p.words.contains(',') {
                let q = packet::Packet::parse(&p.words).unwrap();
                assert_eq!(q.frame(), p.frame, "{}", p.words);
            }
            let o = model::run(&c.rules, &p.frame, p.gso, model::Link::Ethernet);
            n += 1;
            if o.key.is_some() { eligible += 1; }
            match o.rule { Some(r) => { hit += 1; match c.rules[r].action { rules::Action::Funnel{..} => fun += 1, rules::Action::Unfunnel{..} => unf += 1, _ => {} } }, None => miss += 1 }
            if o.frame != p.frame { changed += 1; }
            if o.verdict == model::Verdict::Drop { drop += 1; }
        }
    }
    println!("{n} eligible {eligible} hit {hit} miss {miss} fun {fun} unf {unf} changed {changed} drop {drop} in {:?}", t.elapsed());
    let c = strat.new_tree(&mut runner).unwrap().current();
    println!("{c}");
}
