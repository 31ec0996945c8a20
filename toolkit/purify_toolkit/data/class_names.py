"""The names of classes that torchvision does not know before it has read the files, in the order of the labels."""

DIGITS = tuple("0123456789")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
    bowl boy bridge bus butterfly camel can castle caterpillar cattle
    chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_CIFAR100.split())  # the fine labels

_GTSRB = """
    Speed limit (20km/h); Speed limit (30km/h); Speed limit (50km/h); Speed limit (60km/h); Speed limit (70km/h);
    Speed limit (80km/h); End of speed limit (80km/h); Speed limit (100km/h); Speed limit (120km/h); No passing;
    No passing for vehicles over 3.5 metric tons; Right-of-way at the next intersection; Priority road; Yield; Stop;
    No vehicles; Vehicles over 3.5 metric tons prohibited; No entry; General caution; Dangerous curve to the left;
    Dangerous curve to the right; Double curve; Bumpy road; Slippery road; Road narrows on the right; Road work;
    Traffic signals; Pedestrians; Children crossing; Bicycles crossing; Beware of ice/snow; Wild animals crossing;
    End of all speed and passing limits; Turn right ahead; Turn left ahead; Ahead only; Go straight or right;
    Go straight or left; Keep right; Keep left; Roundabout mandatory; End of no passing;
    End of no passing by vehicles over 3.5 metric tons
"""
GTSRB = tuple(name.strip() for name in _GTSRB.split(";"))
