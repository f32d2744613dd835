//! Which buffer holds which activation: a handful are used again and again, so that memory stays near twice the largest
//! activation however many stages there are. Pure computation: no device.

use crate::net::{Finish, Size, Stage, opens_block};

/// Where a stage's tensors lie, as indices of slots.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StageSlots {
    pub input: usize,
    pub convolved: usize,
    /// Equal to `convolved` where nothing follows that needs a pass of its own.
    pub output: usize,
    pub addend: Option<usize>,
    /// Size of what the stage reads, of what its convolution writes, and of what comes out.
    pub sizes: [Size; 3],
}

/// The slots of all stages for one size of their input.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SlotPlan {
    pub stages: Vec<StageSlots>,
    /// Values that each slot has to hold.
    pub capacity: Vec<u64>,
}

impl SlotPlan {
    pub fn new(stages: &[Stage], picture: Size) -> SlotPlan {
        let colours = stages[0].geometry.in_channels;
        let mut plan =
            SlotPlan { stages: Vec::new(), capacity: vec![(colours * picture.area()) as u64] };
        let (mut input, mut block_input, mut size) = (0, None, picture);
        for (index, stage) in stages.iter().enumerate() {
            let sizes = [size, stage.geometry.output(size), stage.output(size)];
            let values = |size: Size| (stage.geometry.out_channels * size.area()) as u64;
            let opens_block = opens_block(stages, index);
            let addend = if stage.finish == Finish::NormAddBlockInput { block_input } else { None };

            let convolved = plan.take(values(sizes[1]), &[Some(input), addend]);
            // The convolution was the last to read its input, unless the block adds it again.
            let kept = if opens_block { Some(input) } else { addend };
            let output = match stage.finish {
                Finish::Nothing | Finish::Relu => convolved,
                _ => plan.take(values(sizes[2]), &[Some(convolved), kept]),
            };
            plan.stages.push(StageSlots { input, convolved, output, addend, sizes });
            block_input = opens_block.then_some(input);
            (input, size) = (output, sizes[2]);
        }
        plan
    }

    /// A slot that is not in `busy`: the smallest that is large enough, else the largest, which grows, else a new one.
    fn take(&mut self, values: u64, busy: &[Option<usize>]) -> usize {
        let free = || (0..self.capacity.len()).filter(|&slot| !busy.contains(&Some(slot)));
        let capacity = |slot: &usize| self.capacity[*slot];
        let fitting = free().filter(|slot| capacity(slot) >= values).min_by_key(capacity);
        let slot = fitting.or_else(|| free().max_by_key(capacity)).unwrap_or(self.capacity.len());
        if slot == self.capacity.len() {
            self.capacity.push(0);
        }
        self.capacity[slot] = self.capacity[slot].max(values);
        slot
    }

    /// Bytes of the largest slot.
    pub fn largest(&self) -> u64 {
        4 * self.capacity.iter().max().expect("the input has a slot")
    }
}

/// The longer side, at most that of `picture`, with which no slot needs more than `limit` bytes.
pub(super) fn longest_side_within(stages: &[Stage], picture: Size, limit: u64) -> usize {
    let longer = picture.height.max(picture.width);
    let scaled = |side: usize| {
        let scale = |n: usize| (n * side).div_ceil(longer);
        Size::new(scale(picture.height), scale(picture.width))
    };
    let (mut fits, mut exceeds) = (0, longer + 1);
    while exceeds - fits > 1 {
        let side = (fits + exceeds) / 2;
        if SlotPlan::new(stages, scaled(side)).largest() <= limit {
            fits = side
        } else {
            exceeds = side
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::styles::STYLES;
    use crate::testing::adain_net;

    #[test]
    fn no_stage_writes_what_it_or_its_block_still_reads() {
        let (net, adain) = (STYLES[0].net().unwrap(), adain_net(4));
        check(net.stages(), &[Size::new(256, 256), Size::new(5, 7), Size::new(97, 131)]);
        check(adain.encoder(), &[Size::new(16, 24), Size::new(97, 131)]);
        check(adain.decoder(), &[Size::new(2, 3), Size::new(12, 16)]);
    }

    fn check(stages: &[Stage], pictures: &[Size]) {
        for &picture in pictures {
            let plan = SlotPlan::new(stages, picture);
            // What each slot holds: the stage that wrote it (0: the picture).
            let mut held = vec![usize::MAX; plan.capacity.len()];
            held[0] = 0;
            for (index, (slots, stage)) in plan.stages.iter().zip(stages).enumerate() {
                assert_eq!(
                    held[slots.input], index,
                    "{}: reads what the stage before wrote",
                    stage.name
                );
                assert_ne!(slots.convolved, slots.input);
                held[slots.convolved] = usize::MAX;
                if let Some(addend) = slots.addend {
                    assert_eq!(held[addend], index - 1, "{}: adds the block's input", stage.name);
                    assert!(addend != slots.convolved && addend != slots.output);
                }
                assert_eq!(slots.addend.is_some(), stage.finish == Finish::NormAddBlockInput);
                let in_place = matches!(stage.finish, Finish::Nothing | Finish::Relu);
                assert_eq!(slots.output == slots.convolved, in_place);
                held[slots.output] = index + 1;
                let values = |size: Size| (stage.geometry.out_channels * size.area()) as u64;
                assert!(plan.capacity[slots.convolved] >= values(slots.sizes[1]));
                assert!(plan.capacity[slots.output] >= values(slots.sizes[2]));
            }
        }
    }

    #[test]
    fn three_buffers_suffice_two_of_them_large() {
        let net = STYLES[0].net().unwrap();
        let plan = SlotPlan::new(net.stages(), Size::new(256, 512));
        let full = 16 * 256 * 512;
        assert_eq!(plan.capacity, [full, full, full / 4]);
    }

    /// So that a picture the encoder accepts is not refused once it is encoded.
    #[test]
    fn the_decoder_needs_no_larger_buffer_than_the_encoder() {
        let net = adain_net(4);
        let largest =
            |stages, height, width| SlotPlan::new(stages, Size::new(height, width)).largest();
        assert_eq!(largest(net.encoder(), 160, 96), 4 * 4 * 160 * 96);
        assert_eq!(largest(net.decoder(), 20, 12), 4 * 4 * 160 * 96);
    }

    #[test]
    fn the_suggested_side_fits_and_the_next_multiple_of_four_does_not() {
        let net = STYLES[0].net().unwrap();
        let limit = 128 << 20;
        let side = longest_side_within(net.stages(), Size::new(3000, 6000), limit);
        let bytes = |side: usize| SlotPlan::new(net.stages(), Size::new(side / 2, side)).largest();
        assert!(bytes(side) <= limit && bytes(side + 8) > limit, "{side}");
    }
}
