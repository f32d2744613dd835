//! Which buffer holds which activation: a handful are used again and again, so that memory stays near twice the largest
//! activation however many stages there are. Pure computation: no device.

use crate::net::{Finish, Size, TransformerNet};

/// Where a stage's tensors lie, as indices of slots.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StageSlots {
    pub input: usize,
    pub convolved: usize,
    /// Equal to `convolved` where the stage has no norm.
    pub output: usize,
    pub addend: Option<usize>,
    /// Size of what the stage reads and writes.
    pub sizes: (Size, Size),
}

/// The whole network's slots for one picture size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SlotPlan {
    pub stages: Vec<StageSlots>,
    /// Values that each slot has to hold.
    pub capacity: Vec<u64>,
}

impl SlotPlan {
    pub fn new(net: &TransformerNet, picture: Size) -> SlotPlan {
        let mut plan = SlotPlan { stages: Vec::new(), capacity: vec![3 * picture.area() as u64] };
        let (mut input, mut block_input, mut size) = (0, None, picture);
        for (index, stage) in net.stages().iter().enumerate() {
            let output_size = stage.geometry.output(size);
            let values = (stage.geometry.out_channels * output_size.area()) as u64;
            let opens_block = net.opens_block(index);
            let addend = if stage.finish == Finish::NormAddBlockInput { block_input } else { None };

            let convolved = plan.take(values, &[Some(input), addend]);
            // The convolution was the last to read its input, unless the block adds it again.
            let kept = if opens_block { Some(input) } else { addend };
            let output = match stage.finish {
                Finish::Nothing => convolved,
                _ => plan.take(values, &[Some(convolved), kept]),
            };
            plan.stages.push(StageSlots {
                input,
                convolved,
                output,
                addend,
                sizes: (size, output_size),
            });
            block_input = opens_block.then_some(input);
            (input, size) = (output, output_size);
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
pub(super) fn longest_side_within(net: &TransformerNet, picture: Size, limit: u64) -> usize {
    let longer = picture.height.max(picture.width);
    let scaled = |side: usize| {
        let scale = |n: usize| (n * side).div_ceil(longer);
        Size::new(scale(picture.height), scale(picture.width))
    };
    let (mut fits, mut exceeds) = (0, longer + 1);
    while exceeds - fits > 1 {
        let side = (fits + exceeds) / 2;
        if SlotPlan::new(net, scaled(side)).largest() <= limit {
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

    #[test]
    fn no_stage_writes_what_it_or_its_block_still_reads() {
        let net = STYLES[0].net().unwrap();
        for picture in [Size::new(256, 256), Size::new(5, 7), Size::new(97, 131)] {
            let plan = SlotPlan::new(&net, picture);
            // What each slot holds: the stage that wrote it (0: the picture).
            let mut held = vec![usize::MAX; plan.capacity.len()];
            held[0] = 0;
            for (index, (slots, stage)) in plan.stages.iter().zip(net.stages()).enumerate() {
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
                assert_eq!(slots.output == slots.convolved, stage.finish == Finish::Nothing);
                held[slots.output] = index + 1;
                let values = (stage.geometry.out_channels * slots.sizes.1.area()) as u64;
                assert!(
                    plan.capacity[slots.output] >= values
                        && plan.capacity[slots.convolved] >= values
                );
            }
        }
    }

    #[test]
    fn three_buffers_suffice_two_of_them_large() {
        let net = STYLES[0].net().unwrap();
        let plan = SlotPlan::new(&net, Size::new(256, 512));
        let full = 16 * 256 * 512;
        assert_eq!(plan.capacity, [full, full, full / 4]);
    }

    #[test]
    fn the_suggested_side_fits_and_the_next_multiple_of_four_does_not() {
        let net = STYLES[0].net().unwrap();
        let limit = 128 << 20;
        let side = longest_side_within(&net, Size::new(3000, 6000), limit);
        let bytes = |side: usize| SlotPlan::new(&net, Size::new(side / 2, side)).largest();
        assert!(bytes(side) <= limit && bytes(side + 8) > limit, "{side}");
    }
}
